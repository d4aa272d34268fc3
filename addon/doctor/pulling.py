"""A pull as builders do it: /v2/, a token, a tag, its manifest, a range of a blob, and all of that once more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from addon.cache.manifest import parts
from addon.config.login import Password, RegistryToken
from addon.doctor import answers, logins
from addon.doctor.door import Silent
from addon.doctor.findings import failed, ok, skipped, warning
from addon.doctor.registry import given, shown
from addon.oci import ACCEPT_ANY_MANIFEST, Digest, OciError
from addon.upstream import challenge

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from addon.cache.reference import Reference
    from addon.config.login import Login
    from addon.doctor.builders import Machine
    from addon.doctor.door import Answer
    from addon.doctor.findings import Finding
    from addon.doctor.registry import Registry

_API, _LOGIN, _MANIFEST, _BLOB, _AGAIN = "API", "login", "manifest", "blob", "second time"
_MOST = 8  # parts of an image that are looked at, to find one to ask for
_RANGE = 100  # bytes
_WHOLE = 1 << 20  # bytes: larger ones are not fetched as a whole


def pull(registry: Registry, image: Reference, ping: Answer, machine: Machine) -> Iterator[Finding]:
    """`ping`: what the registry said at /v2/, to which nobody had logged in.

    Logins are those of who looks, as with docker: daemons have none.
    """
    try:
        yield from _pull(registry, image, ping, machine)
    except Silent as silent:
        told = f"{image}: {silent}"
        yield failed(answers.PULL, "registry", told, "See the proxy's log: it has a line for each request.")


def _pull(registry: Registry, image: Reference, ping: Answer, machine: Machine) -> Iterator[Finding]:
    if ping.status not in (200, 401):
        yield answers.refused(ping, image, None)
        return
    yield ok(_API, f"/v2/ answers (HTTP {ping.status})")
    login, user = None, None
    if ping.status == 401:
        try:
            found = logins.find(image.registry, machine.environment, machine.home)
        except logins.Unreadable as unreadable:
            remedy = f"Write it anew:\n  docker login {image.registry}"
            yield warning(_LOGIN, "password", str(unreadable), remedy)
            found = None
        if found:
            login, user = found[0], shown(found[0])
        authorization = yield from _log_in(registry, image, ping, login, str(found[1]) if found else "")
        if authorization is None:
            return
    else:
        authorization = ""
        yield skipped(_LOGIN, "nobody is asked for one")
    yield from _look(registry, image, {"Authorization": authorization} if authorization else {}, user)


def _log_in(
    registry: Registry, image: Reference, ping: Answer, login: Login | None, file: str
) -> Generator[Finding, None, str | None]:
    """What to show the registry ("": nothing), or None when nothing more is to be had."""
    challenges = ping.headers.get_all("WWW-Authenticate", [])
    wanted = challenge.bearer(challenges)
    if isinstance(login, RegistryToken) or (wanted is None and isinstance(login, Password)):
        authorization = login.authorization
        if registry.ask("GET", "/v2/", {"Authorization": authorization}).status == 401:
            yield _wrong_password(image, login, file)
            return None
        yield ok(_LOGIN, f"{image.registry} lets {shown(login)} in ({file})")
        return authorization
    if wanted is None:
        told = f"{image.registry} wants a user and password, and there is no login for it here"
        yield failed(
            _LOGIN, "login", told, f"Log in, as the user who runs the builder:\n  docker login {image.registry}"
        )
        return None
    try:
        answer = registry.token(wanted, f"repository:{image.repository}:pull", login)
    except (Silent, OSError) as error:
        told = f"the token server {wanted.realm} gives no answer: {error}"
        remedy = "Builders need it as well: have this machine, or the proxy, let through to it."
        yield failed(_LOGIN, "registry", told, remedy)
        return None
    token = given(answer) if answer.status == 200 else None
    if token is None and login and answer.status in (400, 401, 403):
        yield _wrong_password(image, login, file)
        return None
    if token is None:
        told = f"the token server {wanted.realm} answered HTTP {answer.status} without a token"
        remedy = f"Log in, or see whether that server works:\n  docker login {image.registry}"
        yield failed(_LOGIN, "login" if answer.status in (401, 403) else "registry", told, remedy)
        return None
    yield ok(_LOGIN, f"a token for {shown(login)} ({file})" if login else "a token for anybody")
    return f"Bearer {token}"


def _wrong_password(image: Reference, login: Login, file: str) -> Finding:
    told = f"{image.registry} does not take the login of {shown(login)} in {file}: user or password are wrong"
    again = f"Log in anew, as the user who runs the builder:\n  docker login {image.registry}"
    remedy = f"{again}\nor pull without a login:\n  docker logout {image.registry}"
    return failed(_LOGIN, "password", told, remedy)


def _look(registry: Registry, image: Reference, headers: Mapping[str, str], user: str | None) -> Iterator[Finding]:
    accept = {**headers, "Accept": ACCEPT_ANY_MANIFEST}
    path = f"/v2/{image.repository}/manifests"
    answer = registry.ask("HEAD", f"{path}/{image.target}", accept)
    if answer.status != 200:
        # An answer to HEAD has no body, which says why.
        yield answers.refused(registry.ask("GET", f"{path}/{image.target}", accept), image, user)
        return
    yield answers.found(answer, image)
    digest, manifest = str(image.target), registry.ask("GET", f"{path}/{image.target}", accept)
    if manifest.status == 200 and (child := _child(manifest.body)):
        digest, manifest = child, registry.ask("GET", f"{path}/{child}", accept)
    if manifest.status != 200:
        yield answers.refused(manifest, image, user)
        return
    told = manifest.headers.get("Docker-Content-Digest") or digest
    if ":" in told and not _is(manifest.body, told):
        yield _damaged(_MANIFEST, told)
        return
    yield ok(_MANIFEST, f"{len(manifest.body)} bytes, as their digest says")
    blobs = parts(manifest.body, _MOST).blobs
    if not blobs:
        yield skipped(_BLOB, "the manifest names none")
        return
    yield from _blob(registry, image, blobs[0], headers, user)
    again = registry.ask("HEAD", f"/v2/{image.repository}/blobs/{blobs[0]}", headers)
    status = again.headers.get("Cache-Status", "")
    if "; hit" in status:
        yield ok(_AGAIN, "a hit: it comes from the cache")
    else:
        yield skipped(_AGAIN, "not from the cache yet: it is downloading, or the cache cannot be written")


def _blob(
    registry: Registry, image: Reference, digest: Digest, headers: Mapping[str, str], user: str | None
) -> Iterator[Finding]:
    path = f"/v2/{image.repository}/blobs/{digest}"
    answer = registry.ask("GET", path, {**headers, "Range": f"bytes=0-{_RANGE - 1}"})
    if answer.status in (307, 308, 302):
        yield skipped(_BLOB, "the registry itself redirects to another host, which is not followed here")
        return
    if answer.status not in (200, 206):
        yield answers.refused(answer, image, user)
        return
    size = (answer.headers.get("Content-Range") or "").rpartition("/")[2]
    if answer.status == 206 and not (size.isdigit() and len(answer.body) == min(_RANGE, int(size))):
        yield _damaged(_BLOB, str(digest))
        return
    whole = answer if answer.status == 200 else None
    if whole is None and int(size) <= _WHOLE:
        whole = registry.ask("GET", path, headers)
    if whole and len(whole.body) < _WHOLE and not _is(whole.body, str(digest)):
        yield _damaged(_BLOB, str(digest))
        return
    rest = "and all of it, as its digest says" if whole else f"of {size}"
    yield ok(_BLOB, f"{len(answer.body)} first bytes of {digest.short}, {rest}")


def _damaged(step: str, digest: str) -> Finding:
    told = f"what came is not {digest[:19]}..."
    remedy = (
        "Something between here and the proxy changes or cuts it; on the proxy's machine, look at the cache:\n"
        "  mirrortap cache verify"
    )
    return failed(step, "damaged", told, remedy)


def _child(body: bytes) -> str | None:
    """Of an index, the digest of an image for this kind of machine, or else the first."""
    try:
        manifests: Any = json.loads(body)["manifests"]
        images = [each for each in manifests if isinstance(each["digest"], str)]
        best = next((e for e in images if e.get("platform", {}).get("architecture") == "amd64"), *images[:1])
        return str(Digest.parse(best["digest"]))
    except (ValueError, LookupError, TypeError, AttributeError, OciError):
        return None


def _is(body: bytes, digest: str) -> bool:
    try:
        wanted = Digest.parse(digest)
    except OciError:
        return False
    return not wanted.verifiable or wanted.algorithm != "sha256" or Digest.of(body) == wanted
