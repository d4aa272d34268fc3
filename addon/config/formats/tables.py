"""The tables of BuildKit's `buildkitd.toml` and of mirrortap's own settings, as they are written."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from addon.config.formats import documents
from addon.config.model import (
    Admission,
    Auth,
    Beliefs,
    Capability,
    ConfigError,
    Downloads,
    Endpoint,
    Lives,
    Space,
    Timeouts,
)
from addon.config.values import Bytes, Duration, Least, Most, Networks, Port, Positive, Segment, Share, Tunnel

if TYPE_CHECKING:
    from pathlib import Path


Redirect = Literal["never", "public"]
PathMode = Literal["after-v2", "before-v2", "as-is", "replaced"]


class Table(BaseModel):
    # What stands below a key is its line in docs/reference.md, in Markdown with links as from there.
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        use_attribute_docstrings=True,
    )


class KeyPairTable(Table):
    key: str
    """the file with the private key, in PEM"""
    cert: str
    """the file with the certificate, and what is between it and its root, in PEM"""


class AuthTable(Table):
    username: str | None = None
    """a user's name, with one of the next two keys"""
    password_file: str | None = None
    """the file that holds the password"""
    password_env: str | None = None
    """the environment variable that holds it"""
    token_file: str | None = None
    """the file that holds a token that the registry takes as it is (`Authorization: Bearer ...`)"""
    token_env: str | None = None
    """the environment variable that holds it"""
    docker_config: str | None = None
    """a `config.json` of [Docker's](credentials.md#dockers-configjson), with a credential for this host or the name of
    a helper program
    """
    use: Literal["always", "when-client-has-none"] = Auth.use
    """[whose pulls it is for](credentials.md#at-an-origin), at an origin"""


class MirrorTable(Table):
    url: str
    """`"https://host[:port][/path]"`, or `http`"""
    path_mode: PathMode = "after-v2"
    """where requests for `<repository>` go: `"after-v2"`: `/v2/<path>/<repository>/...`; `"before-v2"`:
    `/<path>/v2/<repository>/...`; `"as-is"`: `/<path>/<repository>/...`; `"replaced"`: as `"after-v2"`, with the path
    in place of that of the table's name ([example](mirrors.md#mirrors-as-tables))
    """
    capabilities: list[Capability] = sorted(Endpoint.can)
    """what it is asked for: `"pull"`: content by its digest; `"resolve"`: tags; `"referrers"`: signatures and the like.
    Blobs with either of the first two, and with `"resolve"` alone, after all others, manifests by digest, too: an
    index's images are asked for like this
    """
    insecure: bool | None = None
    """as in the host's own table, for this use of the host alone; unset: as there"""
    ca: list[str] = []
    """likewise"""
    keypair: list[KeyPairTable] = []
    """likewise"""
    headers: Annotated[dict[str, str], Field(repr=False)] = {}
    """are sent with each request to it, and to nobody that it redirects to. They may be secrets: they are never shown,
    and what the mirror answers is not taken for public ([access](access.md))
    """
    dial_timeout: Positive | None = None
    """until there is a connection to it, TLS included; unset: `connect-timeout`"""
    ns: bool | None = None
    """whether it is told which registry is meant (`?ns=docker.io`); unset: true"""


def _kind(value: object) -> str:
    return "table" if isinstance(value, dict | MirrorTable) else "text"


class RegistryTable(Table):
    # BuildKit's are strings; a table says more of how the mirror is used.
    mirrors: list[
        Annotated[Annotated[str, Tag("text")] | Annotated[MirrorTable, Tag("table")], Discriminator(_kind)]
    ] = []
    """`"host[:port][/path]"`, asked in this order before the origin; with a path, requests go to `/v2/<path>/...`. Or
    [tables](#registryhostmirrors)
    """
    http: bool | None = None
    """plain http; unset: true for loopback addresses alone"""
    insecure: bool = False
    """https whose certificate is not checked; together with `http`: that first, then http"""
    ca: list[str] = []
    """files with CA certificates, trusted for this host in addition to the system's"""
    keypair: list[KeyPairTable] = []
    """[client certificates](#registryhostkeypair)"""
    tlsconfigdir: list[str] = []
    """folders with `*.crt` (CAs) and `*.cert` with `*.key` (client certificates)"""
    server: str | None = None
    """`"https://host[:port]"`: where the origin is really reached; unset: at the host itself"""
    fallback: bool | None = None
    """false: never ask the origin; what no mirror has cannot be pulled, and pushes are refused. Unset: true"""
    blocked: bool = False
    """true: nothing is given of it; every request gets a 403 that names the file and the table"""
    tag_ttl: Duration | None = None
    """how long a tag is believed without asking upstream; unset: as in `[mirrortap]`"""
    prefetch: bool | None = None
    """whether a manifest that is pulled starts the downloads of its layers; unset: as in `[mirrortap]`"""
    mode: Literal["online", "offline"] | None = None
    """`"offline"`: what is cached of this registry is served, and nothing is asked for it
    ([offline](configuration.md#offline)); unset: `"online"`
    """
    access: Literal["open", "checked"] | None = None
    """`"open"`: whoever may use the proxy may read what is cached of it ([access](access.md)); unset: `"checked"`"""
    redirect: Redirect | None = None
    """`"public"`: clients are sent on to the mirror door for large public blobs, over plain http ([what that
    means](mirror-door.md#redirects-to-it)); `"never"`: they are not. Unset: as in `[mirrortap]`
    """
    auth: Annotated[AuthTable | None, Field(repr=False)] = None
    """[the proxy's own credential](#registryhostauth) for this host"""


class MirrortapTable(Table):
    connect_timeout: Positive = Timeouts.connect
    """until there is a connection, TLS included; then the next endpoint is tried"""
    first_byte_timeout: Positive = Timeouts.first_byte
    """until an answer begins, connecting included; then the next endpoint is tried"""
    stall_timeout: Positive = Timeouts.stall
    """without a byte of a body; then the next endpoint is asked for the rest"""
    hedge_delay: Duration = Timeouts.hedge
    """until a mirror that has not begun to answer gets a rival, whichever is first serving; `"0s"`: never"""
    hedge_origin: bool = Downloads.hedge_origin
    """true: the origin, too, may be that rival"""
    stale_after: Duration = Timeouts.stale
    """how long all endpoints together get to say what a tag points at, when the cache can answer instead; then it does,
    and what they say counts for the next pull
    """
    tag_ttl: Duration = 0.0
    """how long a tag is believed without asking upstream; 0 asks each time"""
    redirect: Redirect = "never"
    """`"public"`: clients of the proxy are sent on to the mirror door for large public blobs that are cached, over
    plain http ([what that means](mirror-door.md#redirects-to-it)); needs `--mirror-listen`, without `--mirror-tls`, and
    `--mode regular`
    """
    show_private: bool = False
    """true: the [status page](status.md) and `mirrortap status` name repositories that not everybody may read"""
    offline: bool = False
    """true: nothing is connected to, for any registry or other host ([offline](configuration.md#offline))"""
    cache_size: Most = Space.cache
    """how large the [cache](cache.md#room) may grow"""
    min_free: Least = Space.free
    """how much of the disk the cache leaves free, whatever else fills it"""
    min_rate: Bytes = Downloads.min_rate
    """bytes a second, over the stall timeout, below which a download goes on at the next endpoint; `"0B"`: any rate
    will do
    """
    keep_filling_from: Share = Downloads.keep_from
    """the share of a blob from which on its download goes on when the last client has left; `"0%"`: always, `"100%"`:
    never
    """
    quota_floor: Annotated[int, Field(ge=0)] = Downloads.quota_floor
    """requests left of a registry's rate limit below which the registry is spared"""
    prefetch: bool = Downloads.prefetch
    """false: nothing is downloaded [before a client asks for it](pulls.md#ahead-of-the-client)"""
    segment_size: Segment = Downloads.segment_size
    """the most bytes of a blob that are asked for at once where it comes over [several
    connections](pulls.md#over-several-connections), at least `"1MiB"`; a blob that is no larger comes over one
    """
    connections_per_fill: Annotated[int, Field(ge=1, le=16)] = Downloads.connections_per_fill
    """how many connections that may be; 1: never several"""
    public_ttl: Duration = Beliefs.public
    """how long it is believed that everybody may read a repository ([access](access.md))"""
    private_ttl: Duration = Beliefs.private
    """how long it is believed that not everybody may"""
    access_ttl: Duration = Beliefs.access
    """how long it is believed that a client may, at most as long as its token lives"""
    access_grace: Duration = Beliefs.grace
    """for how long after that was last shown it counts while the origin cannot be reached"""
    allow_clients: Networks = list(Admission.clients)
    """networks from which the proxy may be used ([who may connect](exposure.md#who-may-connect)); by default loopback
    and the private ranges
    """
    proxy_users: str | None = None
    """an htpasswd file: clients must [log in](exposure.md#login) to the proxy"""
    tunnel: Tunnel = "all"
    """which hosts that are not intercepted [may be reached](exposure.md#where-it-leads): `"all"`, `"registries"` or a
    list
    """
    tunnel_ports: list[Port] = sorted(Admission.ports)
    """at which ports"""
    connections_per_client: Annotated[int, Field(ge=1)] = Admission.connections
    """connections from one address at once"""
    header_timeout: Positive = Admission.header
    """until the head of a request is complete, or TLS is established"""
    idle_timeout: Positive = Admission.idle
    """without a byte in either direction; then a connection ends"""
    drain_timeout: Positive = Admission.drain
    """that running transfers get to finish when the proxy is told to stop ([upgrading](upgrading.md))"""
    leaf_life: Positive = Lives.leaf
    """how long certificates for hosts are issued for ([the CA](ca.md)); at least `"3s"`"""
    intermediate_life: Positive = Lives.intermediate
    """how long the intermediate CA is; at least twice `leaf-life`"""


class File(BaseModel):
    mirrortap: MirrortapTable = MirrortapTable()
    registry: dict[str, RegistryTable] = {}


def read(path: Path) -> File:
    """The tables of a TOML file. Raises ConfigError."""
    document = documents.parse_toml(path)
    known = {key: value for key, value in document.items() if key in File.model_fields}
    for key in document.keys() - known.keys():
        # BuildKit has many other tables, all ignored; but a misspelled one of ours must not be.
        if meant := difflib.get_close_matches(key, File.model_fields, cutoff=0.75):
            raise ConfigError(f"{path}: {key}: unknown table; did you mean [{meant[0]}]?")
    return documents.validate(File, known, path)
