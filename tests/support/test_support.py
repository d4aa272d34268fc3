"""The parts of the test support whose own mistakes would make other tests pass."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.faults import (
    Chunked,
    Close,
    Corrupt,
    Fault,
    Gzip,
    Hang,
    HeadRefused,
    NoDigest,
    Slow,
    Status,
    Truncate,
    WrongLength,
)
from support.images import Image, make_image, sha256
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"))


def test_a_seed_gives_the_same_image(image: Image, tmp_path: Path) -> None:
    again, other = make_image(tmp_path / "again"), make_image(tmp_path / "other", seed=1)
    assert again.manifest.digest == image.manifest.digest
    assert {layer.digest for layer in other.layers}.isdisjoint(layer.digest for layer in image.layers)


async def test_what_each_fault_looks_like(image: Image) -> None:
    layer = image.layers[1]
    async with FakeRegistry() as registry, aiohttp.ClientSession(auto_decompress=False) as client:
        registry.add(image, "library/app")
        url = f"{registry.url}/v2/library/app/blobs/{layer.digest}"

        async def get(fault: Fault, method: str = "GET") -> tuple[aiohttp.ClientResponse, bytes]:
            # Not `times=1`: aiohttp asks once more by itself when a connection closes on it.
            injection = registry.inject(fault, kind="blob")
            try:
                async with client.request(method, url) as answer:
                    return answer, await answer.read()
            finally:
                assert injection.hits
                registry.traffic.injections.clear()

        answer, data = await get(Status(503, {"Retry-After": "1"}))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        for broken in Close(), Truncate(100), WrongLength(7):
            with pytest.raises(aiohttp.ClientError):
                await get(broken)
        answer, data = await get(WrongLength(-7))
        assert data == layer.data[:-7]
        answer, data = await get(Corrupt())
        assert len(data) == layer.size
        assert sha256(data) != layer.digest
        answer, data = await get(Chunked())
        assert "Content-Length" not in answer.headers
        assert data == layer.data
        answer, data = await get(Gzip())
        assert answer.headers["Content-Encoding"] == "gzip"
        answer, data = await get(NoDigest())
        assert "Docker-Content-Digest" not in answer.headers
        answer, data = await get(HeadRefused(), "HEAD")
        assert answer.status == 405

        registry.traffic.sent.clear()
        async with client.get(url, headers={"Range": "bytes=10-19"}) as answer:
            assert (answer.status, await answer.read()) == (206, layer.data[10:20])
            assert answer.headers["Content-Range"] == f"bytes 10-19/{layer.size}"
        assert registry.traffic.sent == {layer.digest: 10}


async def test_hanging_and_slow_answers_wait_for_their_events(image: Image) -> None:
    layer = image.layers[1]
    gate = asyncio.Event()
    async with aiohttp.ClientSession() as client:
        async with FakeRegistry() as registry:
            registry.add(image, "library/app")
            url = f"{registry.url}/v2/library/app/blobs/{layer.digest}"
            slow = registry.inject(Slow(gate, after=1000), kind="blob", times=1)
            async with client.get(url) as answer:
                assert await answer.content.readexactly(1000) == layer.data[:1000]
                assert registry.traffic.sent[layer.digest] == 1000
                gate.set()
                assert await answer.content.read() == layer.data[1000:]
            assert slow.hits == 1
            registry.inject(Hang(), kind="blob")
            waiting = asyncio.create_task(client.get(url))
            await registry.wait_for(lambda: len(registry.seen("blob")) == 2)
            assert not waiting.done()
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def test_tokens_are_bound_to_what_the_policy_grants(image: Image) -> None:
    policy = Policy(users={"alice": "pw", "bob": "pw"}, private={"team/secret": {"alice"}})
    async with FakeRegistry(auth=BearerAuth(policy)) as registry, aiohttp.ClientSession() as client:
        for name in "library/app", "team/secret":
            registry.add(image, name)

        async def status(name: str, user: str | None, asked: str | None = None) -> int:
            headers = {"Authorization": basic(user, "pw")} if user else {}
            scope = {"service": "fake", "scope": f"repository:{asked or name}:pull"}
            async with client.get(f"{registry.url}/token", params=scope, headers=headers) as answer:
                token = (await answer.json())["token"]
            bearer = {"Authorization": f"Bearer {token}"}
            async with client.get(f"{registry.url}/v2/{name}/manifests/1.0", headers=bearer) as answer:
                return answer.status

        async with client.get(f"{registry.url}/v2/team/secret/manifests/1.0") as answer:
            assert answer.status == 401
            realm = f'realm="{registry.url}/token"'
            assert answer.headers["WWW-Authenticate"].startswith(f'Bearer {realm},service="fake",scope=')
        assert await status("library/app", None) == 200
        assert await status("team/secret", None) == 401
        assert await status("team/secret", "bob") == 401
        assert await status("team/secret", "alice") == 200
        assert await status("team/secret", "alice", asked="library/app") == 401


async def test_basic_auth_and_a_cdn_that_refuses_credentials(image: Image, authority: Authority) -> None:
    auth = BasicAuth(Policy(users={"alice": "pw"}))
    async with (
        FakeRegistry(tls=authority, auth=auth, cdn=True) as registry,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.client_context())) as client,
    ):
        registry.add(image, "library/app")
        url = f"{registry.url}/v2/library/app/blobs/{image.config.digest}"
        login = {"Authorization": basic("alice", "pw")}
        async with client.get(url) as answer:
            assert answer.status == 401
        async with client.get(url, headers=login, allow_redirects=False) as answer:
            assert answer.status == 307
            elsewhere = answer.headers["Location"]
        async with client.get(elsewhere, headers=login) as answer:
            assert answer.status == 400
        async with client.get(elsewhere) as answer:
            assert await answer.read() == image.config.data
        assert [seen.authorization for seen in registry.seen("cdn")] == [login["Authorization"], None]


async def test_uploads_are_checked_by_digest_and_manifests_by_their_blobs(image: Image) -> None:
    async with FakeRegistry() as registry, aiohttp.ClientSession() as client:
        base = f"{registry.url}/v2/team/app"
        manifest = {"Content-Type": image.manifest.media_type}
        async with client.put(f"{base}/manifests/1.0", data=image.manifest.data, headers=manifest) as answer:
            assert answer.status == 400
            assert (await answer.json())["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        for blob in image.blobs:
            async with client.post(f"{base}/blobs/uploads/") as answer:
                location = answer.headers["Location"]
            async with client.put(f"{location}?digest={sha256(b'other')}", data=blob.data) as answer:
                assert answer.status == 400
            async with client.post(f"{base}/blobs/uploads/?digest={blob.digest}", data=blob.data) as answer:
                assert answer.status == 201
        async with client.put(f"{base}/manifests/1.0", data=image.manifest.data, headers=manifest) as answer:
            assert answer.status == 201
        async with client.get(f"{base}/manifests/1.0") as answer:
            assert json.loads(await answer.read()) == json.loads(image.manifest.data)
