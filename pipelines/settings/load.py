"""Reads the configuration: TOML, overrides, errors that name the nearest key."""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipelines.errors import UserError, did_you_mean
from pipelines.settings.library import (
    GRPO,
    LORA,
    SFT,
    LibraryConfig,
    LibraryTable,
    check_library_table,
)
from pipelines.settings.library_fields import field_types
from pipelines.settings.pack import with_pack
from pipelines.settings.tables import Settings
from rewards.judge_settings import SECRET

MOST_SHOWN = 100  # characters of a table, which would bury what is wrong with it
_KEY = re.compile(r"""["']([^"']+)["']\.|([^.]*)\.""")  # of a dotted name; quotes keep its dots


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a TOML file and apply `table.key=value` overrides.

    Args:
        path: the TOML file.
        overrides: each `dotted.key=value`; the value is TOML, a bare word is taken as a string.

    Raises:
        UserError: the file is missing or malformed, or a key or value is wrong; the message names
            the dotted path and, for an unknown key, the nearest one.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"no configuration file {path}: give --config one of configs/*.toml"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    return parse_settings(with_pack(apply_overrides(tables, overrides)))


def apply_overrides(tables: dict[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """Set each `dotted.key=value` in nested tables, in place; returns them.

    Raises:
        UserError: an override is malformed.
    """
    for override in overrides:
        _apply_override(tables, override)
    return tables


def parse_settings(tables: dict[str, object]) -> Settings:
    """Validate nested tables; see `load_settings` for the errors."""
    try:
        settings = Settings.model_validate(tables)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from None
    for dotted, table, config in library_tables(settings):
        known = field_types(config.module, config.name) if table else None
        if known is not None:  # else whoever imports the library finds out
            check_library_table(dotted, table, config, known)
    return settings


def library_tables(settings: Settings) -> Iterator[tuple[str, LibraryTable, LibraryConfig]]:
    """The tables that libraries get, by their dotted names, each with what it is for."""
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        yield f"{name}.grpo", role.grpo, GRPO
        yield f"{name}.lora", role.lora, LORA
    if settings.sft is not None:
        yield "sft.trainer", settings.sft.trainer, SFT


def dump_settings(settings: Settings) -> str:
    """The resolved settings as JSON that `parse_settings` reads back unchanged."""
    return json.dumps(settings.model_dump(mode="json"), indent=2)


def _apply_override(tables: dict[str, object], override: str) -> None:
    dotted, separator, text = override.partition("=")
    keys = [quoted or bare for quoted, bare in _KEY.findall(dotted.strip() + ".")]
    if not separator or not all(keys):
        raise UserError(f"override {override!r} is not of the form table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for key in keys[:-1]:
        child = table.setdefault(key, {})
        if not isinstance(child, dict):
            raise UserError(f"override {override!r}: {key} is a value, not a table")
        table = child
    table[keys[-1]] = value


def _explain(item: ErrorDetails) -> str:
    location = [str(part) for part in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        hint = did_you_mean(location[-1], _keys_at(location[:-1]))
        return f"unknown key {dotted} in the configuration: {hint}"
    if item["type"] == "missing":
        return f"{dotted} is missing: add it to the configuration"
    message = item["msg"].removeprefix("Value error, ")
    if not location or message.startswith(f"{dotted}."):
        return message
    given = f" = {item['input']!r}"
    is_table = isinstance(item["input"], dict)
    if item["type"] == SECRET or (is_table and len(given) > MOST_SHOWN):
        given = ""
    return f"{dotted}{given}: {message}"


def _keys_at(location: Sequence[str]) -> Iterable[str]:
    model: type[BaseModel] = Settings
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            continue  # a name of the user's, such as a signal's, between two tables
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model.model_fields
