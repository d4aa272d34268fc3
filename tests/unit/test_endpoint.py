"""Where an endpoint has a repository."""

from __future__ import annotations

import pytest

from addon.config.model import Endpoint


@pytest.mark.parametrize(
    ("base", "replaces", "repository", "path"),
    [
        ("/v2", "", "library/app", "/v2/library/app"),
        ("/v2/hub", "", "library/app", "/v2/hub/library/app"),
        ("/hub/v2", "", "library/app", "/hub/v2/library/app"),
        ("/hub", "", "library/app", "/hub/library/app"),
        ("", "", "library/app", "/library/app"),
        ("/v2/hub", "library", "library/app", "/v2/hub/app"),
        ("/v2/hub", "library", "library/library/app", "/v2/hub/library/app"),
        ("/v2/hub", "library/app", "library/app", "/v2/hub"),
        ("/v2", "team", "team/app", "/v2/app"),
    ],
)
def test_paths(base: str, replaces: str, repository: str, path: str) -> None:
    assert Endpoint("m.io", "https://m.io", base, replaces).path(repository) == path


def test_an_endpoint_of_a_wildcard_is_the_host_itself() -> None:
    itself = Endpoint("*.corp.test:5000", "http://*.corp.test:5000", is_origin=True)
    assert itself.standing_for("a.corp.test:5000").url == "http://a.corp.test:5000"
    elsewhere = Endpoint("m.io", "https://m.io")
    assert elsewhere.standing_for("a.corp.test:5000") == elsewhere
    assert Endpoint("*", "https://*", is_origin=True).standing_for("docker.io").url == "https://registry-1.docker.io"
