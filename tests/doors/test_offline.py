"""Offline: other hosts get no tunnel and no forwarding, with the reason; registries are still answered."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from support.proxy import Proxy
    from support.threads import LoopThread

    from doors.conftest import Serve

HOST = "registry.example"
EVERYTHING = toml({HOST: {}}, {"offline": True})


@pytest.fixture
def elsewhere(loop_thread: LoopThread) -> FakeRegistry:
    """Some host that is not intercepted."""
    return loop_thread.enter(FakeRegistry())


def ask(proxy: Proxy, method: str, target: str, body: bytes | None = None) -> tuple[int, str, str]:
    """Status, reason and text of what the proxy's own port answers."""
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        connection.request(method, target, body=body)
        answer = connection.getresponse()
        return answer.status, answer.reason, answer.read().decode()


def test_a_tunnel_to_another_host(elsewhere: FakeRegistry, start_proxy: Serve) -> None:
    proxy = start_proxy(EVERYTHING)
    status, reason, text = ask(proxy, "CONNECT", elsewhere.endpoint)
    assert (status, reason) == (504, "mirrortap is offline")
    assert "mirrortap is offline: " in text
    assert elsewhere.endpoint in text


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("HEAD", None), ("POST", bytes(8 << 20))])
def test_plain_http_to_another_host(
    method: str, body: bytes | None, elsewhere: FakeRegistry, start_proxy: Serve
) -> None:
    proxy = start_proxy(EVERYTHING)
    status, reason, text = ask(proxy, method, f"{elsewhere.url}/packages/a.deb", body)
    assert (status, reason) == (504, "mirrortap is offline")
    assert method == "HEAD" or elsewhere.endpoint in text
    assert elsewhere.requests == []


def test_one_connection_is_refused_many_times(elsewhere: FakeRegistry, start_proxy: Serve) -> None:
    proxy = start_proxy(EVERYTHING)
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        for method in "GET", "HEAD", "POST", "GET":
            connection.request(method, f"{elsewhere.url}/x", body=b"content" if method == "POST" else None)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 504


def test_registries_and_the_proxys_own_page_are_answered(start_proxy: Serve) -> None:
    proxy = start_proxy(EVERYTHING)
    for host in HOST, "quay.io":
        client = proxy.client(host)
        assert client.get("/v2/").status == 200
        answer = client.get("/v2/app/manifests/1.0")
        assert answer.status == 504
        (error,) = json.loads(answer.body)["errors"]
        assert f"manifest {host}/app:1.0 is not in the cache" in error["message"]
    assert ask(proxy, "GET", "/ca.crt")[2].encode() == proxy.ca.read_bytes()


def test_with_one_registry_offline_other_hosts_are_reached(elsewhere: FakeRegistry, start_proxy: Serve) -> None:
    proxy = start_proxy(toml({HOST: {"mode": "offline"}}, {"tunnel": [elsewhere.endpoint]}))
    assert proxy.client(HOST).get("/v2/app/manifests/1.0").status == 504
    assert ask(proxy, "GET", f"{elsewhere.url}/v2/")[0] == 200
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as tunnel:
        host, _, port = elsewhere.endpoint.partition(":")
        tunnel.set_tunnel(host, int(port))
        tunnel.request("GET", "/v2/")
        assert tunnel.getresponse().status == 200


def test_what_it_says_when_it_is_up(start_proxy: Serve) -> None:
    program = start_proxy(EVERYTHING).program
    program.out.wait_for("every other host is refused: mirrortap is offline")
    said = "\n".join(program.out.all())
    assert f"{HOST}  offline, from the cache alone" in said
    assert "straight from the origin" not in said
