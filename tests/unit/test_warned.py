"""What somebody should see to, in words with the remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from addon.counts.facts import CacheFacts, CaFacts, Certificate, EndpointFacts, QuotaFacts, Share, Tallied, Warned
from addon.status.warned import warnings

NOW = 1_700_000_000.0
MIRROR = EndpointFacts("docker.io", "mirror.test", False, "up", "", 0.0, 0.1, 10, 0)
ORIGIN = replace(MIRROR, endpoint="docker.io", origin=True)
SHARE = Share(Tallied(), (), (MIRROR, ORIGIN), (), 0, writable=True, refused="")
CACHE = CacheFacts("/data/cache", 3, 100, 1000, free=500, floor=50, pinned=10, next=(), writable=True)
YEAR = Certificate("CN=mirrortap", "AA", NOW - 1, NOW + 365 * 86400)
CA = CaFacts(YEAR, YEAR, 7 * 86400, ("docker.io",))


def told(share: Share = SHARE, cache: CacheFacts = CACHE, ca: CaFacts = CA, *said: str) -> list[Warned]:
    return warnings(share, cache, ca, said, 10, NOW)


def down(endpoint: EndpointFacts) -> EndpointFacts:
    return replace(endpoint, state="down", reason="Connection refused", until=NOW + 20)


def test_of_what_is_well_nothing_is_said() -> None:
    assert told() == []


def test_a_mirror_that_is_down_is_named_with_its_reason() -> None:
    (warned,) = told(replace(SHARE, endpoints=(down(MIRROR), ORIGIN)))
    assert warned.what == "mirror.test, a mirror of docker.io, is asked last: Connection refused"
    assert "it is asked again at 22:13:40 UTC" in warned.remedy


def test_what_is_read_out_when_it_changes_does_not_change_with_time() -> None:
    few = QuotaFacts("docker.io", "anonymous", 9, 100, 600.0, NOW - 60)
    share = replace(SHARE, endpoints=(down(MIRROR), ORIGIN), quotas=(few,))
    assert warnings(share, CACHE, CA, (), 10, NOW) == warnings(share, CACHE, CA, (), 10, NOW + 1)


def test_that_all_are_down_is_said_of_each() -> None:
    both = told(replace(SHARE, endpoints=(down(MIRROR), down(ORIGIN))))
    assert [each.what.partition(",")[0] for each in both] == ["mirror.test", "docker.io"]
    assert all("only what is cached is served" in each.remedy for each in both)


def test_a_rate_limit_that_is_nearly_used_up_is_said_as_long_as_it_lasts() -> None:
    few = QuotaFacts("docker.io", "anonymous", 9, 100, 600.0, NOW - 60)
    (warned,) = told(replace(SHARE, quotas=(few,)))
    assert warned.what == "docker.io lets anonymous ask for 9 more manifests until 22:22:20 UTC"
    assert "credential" in warned.remedy
    assert told(replace(SHARE, quotas=(replace(few, remaining=10),))) == []
    assert told(replace(SHARE, quotas=(replace(few, at=NOW - 601),))) == []


@pytest.mark.parametrize(
    ("share", "cache", "words"),
    [
        (replace(SHARE, writable=False), CACHE, "cannot be written (/data/cache)"),
        (SHARE, replace(CACHE, free=49), "has 49 B free, less than min-free (50 B)"),
        (SHARE, replace(CACHE, pinned=1001), "what is pinned has 1.0 kB, more than cache-size"),
        (replace(SHARE, refused="/etc/m.toml: bad"), CACHE, "is refused, and the one before stays in use: /etc/m.toml"),
    ],
)
def test_what_is_wrong_here_is_said(share: Share, cache: CacheFacts, words: str) -> None:
    (warned,) = told(share, cache)
    assert words in warned.what
    assert warned.remedy


@pytest.mark.parametrize(("days", "words"), [(29, "ends in 29 days"), (-1, "has ended"), (31, None)])
def test_certificates_that_end_soon_are_told(days: int, words: str | None) -> None:
    root = replace(YEAR, ends=NOW + days * 86400)
    found = [each.what for each in told(ca=replace(CA, root=root))]
    assert (words in found[0] and len(found) == 1) if words else not found


def test_builders_that_do_not_trust_the_ca_are_told_for_an_hour() -> None:
    seen = tuple((f"10.0.0.{number}", "for docker.io", NOW - 60) for number in range(5))
    (warned,) = told(replace(SHARE, tallied=Tallied(distrusting=seen)))
    assert warned.what.endswith(
        "10.0.0.2 (for docker.io), 10.0.0.3 (for docker.io), 10.0.0.4 (for docker.io) and 2 more"
    )
    old = (("10.0.0.1", "for docker.io", NOW - 3601),)
    assert told(replace(SHARE, tallied=Tallied(distrusting=old))) == []


def test_what_others_warn_of_is_split_into_what_and_remedy() -> None:
    found = told(SHARE, CACHE, CA, "m.toml: tunnel is odd; write it otherwise", "no remedy here")
    assert found == [Warned("m.toml: tunnel is odd", "write it otherwise"), Warned("no remedy here", "")]
