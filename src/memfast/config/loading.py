"""Reading settings: typed defaults, a profile, a TOML file, `MEMFAST_*` variables and flags, by rising precedence.

A key that nothing knows is refused with the nearest name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from memfast.config.profiles import PROFILES
from memfast.config.sections import Config, default_data_dir
from memfast.errors import ConfigError

__all__ = ["Effective", "Setting", "changed", "load", "settings"]

REQUESTS_SHARE_MIN = 0.01
"""What the shares of the answers must leave for requests that were recognised."""

_UNPREFIXED = "server"
"""The section whose variables carry no section name: MEMFAST_PORT, not MEMFAST_SERVER_PORT."""

_NAMED = {f"graph.{name}": f"MEMFAST_NEO4J_{name.upper()}" for name in ("uri", "user", "password", "database")}
"""Settings whose variables are named for the server that they speak of, as its own tools name them."""

_NOT_SETTINGS = frozenset({"MEMFAST_CONFIG", "MEMFAST_API_KEY", "MEMFAST_URL", "MEMFAST_NATIVE", "MEMFAST_BUILD"})
"""Variables of this prefix that something else reads."""

_SECRETS = frozenset({"embedding.api_key", "embedding.next_api_key", "graph.password", "postgres.dsn", "redis.url"})


class Setting(Struct, frozen=True, kw_only=True):
    """One setting as documentation shows it."""

    key: str
    variable: str
    type: Any
    default: Any
    unit: str
    text: str

    @property
    def secret(self) -> bool:
        """Whether its value must not be printed."""
        return self.key in _SECRETS


class Effective(Struct, frozen=True, kw_only=True):
    """A configuration and where each value came from: `default`, `profile NAME`, the file, a variable or a flag."""

    config: Config
    origins: dict[str, str]


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the sections."""
    yield from _section_settings(Config, "")
    for name, hint in get_type_hints(Config, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Struct):
            yield from _section_settings(hint, f"{name}.")


def load(
    environ: Mapping[str, str],
    *,
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> Effective:
    """Read the configuration.

    Args:
        environ: the process environment; only `MEMFAST_*` is looked at.
        flags: values by key (`server.port`), from the command line.
        file: a TOML file; default: the one that `MEMFAST_CONFIG` names, if any.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or an unreadable file.
    """
    known = {setting.key: setting for setting in settings()}
    layers: list[tuple[str, dict[str, Any]]] = []
    path = file or (Path(environ["MEMFAST_CONFIG"]) if environ.get("MEMFAST_CONFIG") else None)
    if path is not None:
        layers.append((str(path), _read_file(path, known)))
    layers.extend(_read_environ(environ, known))
    for key, value in (flags or {}).items():
        layers.append(("command line", {_known_key(key, known, "the command line"): value}))

    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")
    for origin, layer in layers:
        for key, value in layer.items():
            values[key] = _convert(known[key], value, origin)
            origins[key] = origin
    profile = values.get("profile", "balanced")
    for key, value in PROFILES[profile].items():
        if key not in values:
            values[key] = value
            origins[key] = f"profile {profile}"
    return Effective(config=_validated(_assemble(values)), origins=origins)


def changed(config: Config, values: Mapping[str, Any], origin: str) -> Config:
    """The configuration with some values by key instead of its own, checked as `load` does.

    Args:
        config: is not changed.
        values: e.g. `{"cache.memory_mb": 256}`.
        origin: where they come from, for messages.

    Raises:
        ConfigError: a key is unknown, or a value will not do.
    """
    known = {setting.key: setting for setting in settings()}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = _known_key(key, known, origin).rpartition(".")
        sections.setdefault(section, {})[name] = _convert(known[key], value, origin)
    parts = {name: replace(getattr(config, name), **own) for name, own in sections.items() if name}
    return _validated(replace(config, **sections.get("", {}), **parts))


def _section_settings(section: type[Struct], prefix: str) -> Iterator[Setting]:
    hints = get_type_hints(section, include_extras=True)
    for field in msgspec.structs.fields(section):
        annotations = get_args(hints[field.name])
        metas = [item for item in annotations if isinstance(item, Meta)]
        if not metas:
            continue
        default = field.default if field.default is not msgspec.NODEFAULT else default_data_dir()
        named = field.name if prefix == f"{_UNPREFIXED}." else f"{prefix}{field.name}"
        yield Setting(
            key=f"{prefix}{field.name}",
            variable=_NAMED.get(f"{prefix}{field.name}") or "MEMFAST_" + named.replace(".", "_").upper(),
            type=hints[field.name],
            default=default,
            unit=(metas[0].extra or {}).get("unit", ""),
            text=metas[0].description or "",
        )


def _read_file(path: Path, known: Mapping[str, Setting]) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from error
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            flat[name] = value
    return {_known_key(key, known, str(path)): value for key, value in flat.items()}


def _read_environ(environ: Mapping[str, str], known: Mapping[str, Setting]) -> Iterator[tuple[str, dict[str, Any]]]:
    by_variable = {setting.variable: setting.key for setting in known.values()}
    for name, value in environ.items():
        if not name.startswith("MEMFAST_") or name in _NOT_SETTINGS:
            continue
        if name not in by_variable:
            raise ConfigError(f"unknown variable {name}{_nearest(name, by_variable)}")
        yield name, {by_variable[name]: value}


def _known_key(key: str, known: Mapping[str, Setting], where: str) -> str:
    if key not in known:
        raise ConfigError(f"unknown setting {key!r} in {where}{_nearest(key, known)}")
    return key


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; see `memfast config` for all of them"


def _convert(setting: Setting, value: Any, origin: str) -> Any:
    try:
        if isinstance(value, str) and setting.type is not str:
            return msgspec.convert(value, setting.type, strict=False)
        return msgspec.convert(value, setting.type)
    except msgspec.ValidationError as error:
        shown = "(hidden)" if setting.secret else repr(value)
        raise ConfigError(f"{setting.key} = {shown} from {origin}: {error}; {setting.text}") from error


def _assemble(values: Mapping[str, Any]) -> Config:
    top: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            top.setdefault(section, {})[name] = value
        else:
            top[name] = value
    return msgspec.convert(top, Config)


def _validated(config: Config) -> Config:
    embedding, postgres = config.embedding, config.postgres
    if embedding.provider != "wordllama" and not embedding.dimensions:
        raise ConfigError(
            f"embedding.provider = {embedding.provider!r} needs embedding.dimensions "
            "(MEMFAST_EMBEDDING_DIMENSIONS): the length of the vectors"
        )
    if embedding.provider == "openai" and not (embedding.model and embedding.base_url):
        raise ConfigError(
            "embedding.provider = 'openai' needs embedding.base_url and embedding.model "
            "(MEMFAST_EMBEDDING_BASE_URL, MEMFAST_EMBEDDING_MODEL)"
        )
    if postgres.pool_min and postgres.pool_max and postgres.pool_min > postgres.pool_max:
        raise ConfigError(
            f"postgres.pool_min = {postgres.pool_min} is larger than postgres.pool_max = {postgres.pool_max}"
        )
    if config.cache.requests_share < REQUESTS_SHARE_MIN:
        raise ConfigError(
            f"cache.search_share, list_share and get_share leave {config.cache.requests_share:g} of the memory for "
            f"requests, which need {REQUESTS_SHARE_MIN:g}: lower one of them"
        )
    server = config.server
    for name in ("read_timeout_s", "write_timeout_s"):
        if getattr(server, name) > server.timeout_max_s:
            raise ConfigError(
                f"server.{name} = {getattr(server, name):g} is longer than "
                f"server.timeout_max_s = {server.timeout_max_s:g}, the longest of all; raise that, or lower it"
            )
    if server.timeout_max_s > server.stop_timeout_s:
        raise ConfigError(
            f"server.stop_timeout_s = {server.stop_timeout_s} must not be shorter than "
            f"server.timeout_max_s = {server.timeout_max_s:g}: a stop would cut requests off"
        )
    return config
