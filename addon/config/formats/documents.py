"""Files that operators write, parsed and held against a model of their tables; errors name the file and the key."""

from __future__ import annotations

import difflib
import tomllib
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag, ValidationError

from addon.config.model import ConfigError, dotted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


_LONG = 200  # characters of a value that an error shows


def text(path: Path) -> str:
    """What a file holds. Raises ConfigError."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; check the path given to --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}), as it should be") from None


def parse_toml(path: Path) -> dict[str, Any]:
    """The document in a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(text(path))
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: numbers and nesting beyond Python's own limits, too.
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def validate[T: BaseModel](model: type[T], document: Mapping[str, Any], path: Path) -> T:
    """The document as its tables. Values of fields with `repr=False` are not shown. Raises ConfigError."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [f"{path}: {_explain(model, each)}" for each in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def _explain(model: type[BaseModel], error: Any) -> str:
    keys, table, secret = _follow(model, error["loc"])
    where = dotted(keys)
    if error["type"] == "extra_forbidden" and table:
        known = [field.alias or name for name, field in table.model_fields.items()]
        meant = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"the keys are {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    # What stands there may be a secret in the wrong place.
    return f"{where}: {message}" if secret else f"{where}: {message} (it is {_shown(error['input'])})"


def _follow(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str | int], type[BaseModel] | None, bool]:
    """pydantic's way to a value: the document's keys alone, the table that has the last of them, whether to hide it."""
    kind: Any = model
    keys: list[str | int] = []
    table: type[BaseModel] | None = None
    secret = False
    for part in loc:
        kind, table = _bare(kind), None
        if _tagged(kind):
            # The part only says which kind of value this is taken for.
            kind = next((each for each in get_args(get_args(kind)[0]) if Tag(str(part)) in get_args(each)), None)
            continue
        keys.append(part)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            table = kind
            field = next((f for name, f in kind.model_fields.items() if part == (f.alias or name)), None)
            kind, secret = (field.annotation, secret or not field.repr) if field else (None, secret)
        else:
            # Of a list or a table of like values.
            kind = next(iter(get_args(kind)[-1:]), None)
    return keys, table, secret


def _bare(kind: Any) -> Any:
    """Without what makes no difference to the way: constraints, and that it may be left out."""
    while True:
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated and not _tagged(kind):
            kind = args[0]
        elif origin in (Union, UnionType) and NoneType in args:
            kind = next(each for each in args if each is not NoneType)
        else:
            return kind


def _tagged(kind: Any) -> bool:
    return get_origin(kind) is Annotated and any(isinstance(each, Discriminator) for each in get_args(kind)[1:])


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    try:
        shown = repr(value)
    except ValueError:  # Python writes no number that is this long
        return "a number"
    return shown if len(shown) <= _LONG else f"{shown[:_LONG]}..."
