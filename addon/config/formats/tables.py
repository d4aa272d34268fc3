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
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-"))


class KeyPairTable(Table):
    key: str
    cert: str


class AuthTable(Table):
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    token_file: str | None = None
    token_env: str | None = None
    docker_config: str | None = None
    use: Literal["always", "when-client-has-none"] = Auth.use


class MirrorTable(Table):
    url: str
    path_mode: PathMode = "after-v2"
    capabilities: list[Capability] = sorted(Endpoint.can)
    insecure: bool | None = None
    ca: list[str] = []
    keypair: list[KeyPairTable] = []
    headers: Annotated[dict[str, str], Field(repr=False)] = {}
    dial_timeout: Positive | None = None
    ns: bool | None = None


def _kind(value: object) -> str:
    return "table" if isinstance(value, dict | MirrorTable) else "text"


class RegistryTable(Table):
    # BuildKit's are strings; a table says more of how the mirror is used.
    mirrors: list[
        Annotated[Annotated[str, Tag("text")] | Annotated[MirrorTable, Tag("table")], Discriminator(_kind)]
    ] = []
    http: bool | None = None
    insecure: bool = False
    ca: list[str] = []
    keypair: list[KeyPairTable] = []
    tlsconfigdir: list[str] = []
    server: str | None = None
    fallback: bool | None = None
    blocked: bool = False
    tag_ttl: Duration | None = None
    prefetch: bool | None = None
    mode: Literal["online", "offline"] | None = None
    access: Literal["open", "checked"] | None = None
    redirect: Redirect | None = None
    auth: Annotated[AuthTable | None, Field(repr=False)] = None


class MirrortapTable(Table):
    connect_timeout: Positive = Timeouts.connect
    first_byte_timeout: Positive = Timeouts.first_byte
    stall_timeout: Positive = Timeouts.stall
    hedge_delay: Duration = Timeouts.hedge
    hedge_origin: bool = Downloads.hedge_origin
    stale_after: Duration = Timeouts.stale
    tag_ttl: Duration = 0.0
    redirect: Redirect = "never"
    show_private: bool = False
    offline: bool = False
    cache_size: Most = Space.cache
    min_free: Least = Space.free
    min_rate: Bytes = Downloads.min_rate
    keep_filling_from: Share = Downloads.keep_from
    quota_floor: Annotated[int, Field(ge=0)] = Downloads.quota_floor
    prefetch: bool = Downloads.prefetch
    segment_size: Segment = Downloads.segment_size
    connections_per_fill: Annotated[int, Field(ge=1, le=16)] = Downloads.connections_per_fill
    public_ttl: Duration = Beliefs.public
    private_ttl: Duration = Beliefs.private
    access_ttl: Duration = Beliefs.access
    access_grace: Duration = Beliefs.grace
    allow_clients: Networks = list(Admission.clients)
    proxy_users: str | None = None
    tunnel: Tunnel = "all"
    tunnel_ports: list[Port] = sorted(Admission.ports)
    connections_per_client: Annotated[int, Field(ge=1)] = Admission.connections
    header_timeout: Positive = Admission.header
    idle_timeout: Positive = Admission.idle
    drain_timeout: Positive = Admission.drain
    leaf_life: Positive = Lives.leaf
    intermediate_life: Positive = Lives.intermediate


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
