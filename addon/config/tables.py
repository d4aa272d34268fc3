"""The tables of BuildKit's `buildkitd.toml` and of mirrortap's own settings, as they are written."""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

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
    dotted,
)
from addon.config.values import Bytes, Duration, Least, Most, Networks, Port, Positive, Share, Tunnel

if TYPE_CHECKING:
    from pathlib import Path


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
    headers: dict[str, str] = {}
    dial_timeout: Positive | None = None
    ns: bool = True


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
    mode: Literal["online", "offline"] | None = None
    access: Literal["open", "checked"] | None = None
    auth: AuthTable | None = None


class MirrortapTable(Table):
    connect_timeout: Positive = Timeouts.connect
    first_byte_timeout: Positive = Timeouts.first_byte
    stall_timeout: Positive = Timeouts.stall
    hedge_delay: Duration = Timeouts.hedge
    hedge_origin: bool = Downloads.hedge_origin
    stale_after: Duration = Timeouts.stale
    tag_ttl: Duration = 0.0
    offline: bool = False
    cache_size: Most = Space.cache
    min_free: Least = Space.free
    min_rate: Bytes = Downloads.min_rate
    keep_filling_from: Share = Downloads.keep_from
    quota_floor: Annotated[int, Field(ge=0)] = Downloads.quota_floor
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
    leaf_life: Positive = Lives.leaf
    intermediate_life: Positive = Lives.intermediate


class File(BaseModel):
    mirrortap: MirrortapTable = MirrortapTable()
    registry: dict[str, RegistryTable] = {}


def read(path: Path) -> File:
    """The tables of a TOML file. Raises ConfigError."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; check the path given to --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); TOML files are") from None
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: numbers and nesting beyond Python's own limits, too.
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    known = {key: value for key, value in document.items() if key in File.model_fields}
    for key in document.keys() - known.keys():
        # BuildKit has many other tables, all ignored; but a misspelled one of ours must not be.
        if meant := difflib.get_close_matches(key, File.model_fields, cutoff=0.75):
            raise ConfigError(f"{path}: {key}: unknown table; did you mean [{meant[0]}]?")
    try:
        return File.model_validate(known)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, e) for e in error.errors())) from None


def _explain(path: Path, error: Any) -> str:
    # Which kind of mirror it is taken for says nothing to its author.
    loc = [part for i, part in enumerate(error["loc"]) if not (i == 4 and part in ("text", "table"))]
    where, key, keys = list(map(str, loc[:-1])), str(loc[-1]), dotted(loc)
    if error["type"] == "extra_forbidden":
        table: type[Table] = MirrortapTable if where[0] == "mirrortap" else RegistryTable
        if where[2:3] == ["keypair"]:
            table = KeyPairTable
        elif where[2:3] == ["auth"]:
            table = AuthTable
        elif where[2:3] == ["mirrors"]:
            table = KeyPairTable if "keypair" in where[4:] else MirrorTable
        known = [name.replace("_", "-") for name in table.model_fields]
        meant = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"the keys are {', '.join(known)}"
        return f"{path}: {keys}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if [*where, key][2:3] == ["auth"] or "headers" in where:
        # What stands there may be a secret in the wrong place.
        return f"{path}: {keys}: {message}"
    return f"{path}: {keys}: {message} (it is {error['input']!r})"
