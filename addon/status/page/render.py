"""Facts as HTML. Whatever clients have written is escaped by Jinja2."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from addon.status import words
from addon.status.page import chart, setup

if TYPE_CHECKING:
    from addon.counts.facts import Facts
    from addon.status.page.selection import Selection
    from addon.status.page.setup import Reach

SECTIONS = ("proxy", "warnings", "traffic", "fills", "endpoints", "requests", "cache", "ca")
"""What changes while somebody looks: ids of elements of the page, and names of templates."""

_environment = Environment(
    loader=PackageLoader("addon.status.page", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.filters |= {
    "size": words.size,
    "rate": words.rate,
    "latency": words.latency,
    "lasting": words.lasting,
    "day": words.day,
    "short": words.short,
    "content": words.of_content,
    "reference": words.reference,
    "progress": words.progress,
    "waiting": words.waiting,
    "kind_of": words.kind_of,
    "left": words.left,
    "state": words.state,
    "used": words.used,
    "subject": words.subject,
}
_environment.globals |= {
    "nothing": words.NONE,
    "meaning": words.OUTCOMES,
    "outcomes": list(words.OUTCOMES.items()),
    "width": chart.WIDTH,
    "height": chart.HEIGHT,
}


def page(facts: Facts, selection: Selection, at: Reach) -> str:
    """All of it."""
    sections = {**shared(facts), "requests": requests(facts, selection)}
    return _rendered(
        "page",
        facts,
        selection=selection,
        sections={name: Markup(html) for name, html in sections.items()},
        registries=sorted({each.registry for each in facts.requests}),
        at=at,
        builders=setup.builders(at),
    )


def shared(facts: Facts) -> dict[str, str]:
    """What is in each of SECTIONS but "requests", which is not the same for everybody."""
    charts = [
        chart.chart("hour", "Last hour", facts.traffic.hour, "%H:%M"),
        chart.chart("day", "Last day", facts.traffic.day, "%d %b %H:%M"),
        chart.chart("month", "Last 30 days", facts.traffic.month, "%d %b"),
    ]
    return {name: _rendered(name, facts, charts=charts) for name in SECTIONS if name != "requests"}


def requests(facts: Facts, selection: Selection) -> str:
    """What is in that section."""
    return _rendered("requests", facts, selection=selection, requests=selection.of(facts.requests))


def _rendered(template: str, facts: Facts, **values: Any) -> str:
    # Filters of `now` are bound for each rendering: there are several at once.
    return _environment.get_template(f"{template}.html").render(
        facts=facts,
        time=partial(_time, facts.now),
        moment=partial(words.moment, now=facts.now),
        standing=partial(words.standing, now=facts.now),
        **values,
    )


def _time(now: float, at: float) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(words.machine_time(at), words.moment(at, now))
