"""Settings: typed defaults, a TOML file, `MEMFAST_*` variables and flags, in that order of rising precedence.

Every field carries its unit and its line of documentation in its `Meta`; `memfast config` and the README table are
made from them. A key that nothing knows is refused with the nearest name.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import platformdirs
from msgspec import Meta, Struct

from memfast.errors import ConfigError

__all__ = [
    "PROFILES",
    "CacheConfig",
    "Config",
    "Effective",
    "EmbeddingConfig",
    "IndexConfig",
    "LimitsConfig",
    "LogConfig",
    "MemoryConfig",
    "PostgresConfig",
    "ServerConfig",
    "Setting",
    "default_data_dir",
    "load",
    "settings",
]


def _doc(text: str, unit: str = "", **bounds: Any) -> Meta:
    return Meta(description=text, extra={"unit": unit}, **bounds)


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP server."""

    host: Annotated[str, _doc("address to listen on; other than loopback needs an API key")] = "127.0.0.1"
    port: Annotated[int, _doc("TCP port", ge=1, le=65535)] = 8077
    workers: Annotated[int, _doc("worker processes", "processes", ge=1, le=64)] = 1
    request_timeout_s: Annotated[float, _doc("time a request may take", "s", gt=0, le=3600)] = 30.0
    body_timeout_s: Annotated[float, _doc("time a request's body may take to arrive", "s", gt=0, le=3600)] = 10.0
    body_max_bytes: Annotated[int, _doc("largest request body", "bytes", ge=1024)] = 10 * 1024 * 1024
    stop_timeout_s: Annotated[int, _doc("time for running requests when the service stops", "s", ge=1, le=600)] = 35
    backlog: Annotated[int, _doc("connections kept waiting or open, all workers", "connections", ge=1)] = 1024


class PostgresConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The store of record."""

    dsn: Annotated[str, _doc("address of an external PostgreSQL; empty = the embedded one")] = ""
    embedded_major: Annotated[
        Literal[16, 18], _doc("PostgreSQL version of a new embedded database; an existing one keeps its own")
    ] = 18
    pool_min: Annotated[
        int,
        _doc(
            "connections kept open, all workers; 0 = by kind: 4 a worker embedded, 20 external",
            "connections",
            ge=0,
        ),
    ] = 0
    pool_max: Annotated[
        int,
        _doc(
            "largest number of connections, all workers; 0 = by kind: 4 a worker embedded, 100 external",
            "connections",
            ge=0,
        ),
    ] = 0
    acquire_timeout_s: Annotated[float, _doc("wait for a free connection", "s", gt=0, le=60)] = 1.0
    connect_timeout_s: Annotated[float, _doc("wait for a new connection", "s", gt=0, le=60)] = 5.0
    command_timeout_s: Annotated[float, _doc("time one statement may take", "s", gt=0, le=3600)] = 10.0
    idle_lifetime_s: Annotated[float, _doc("idle time after which a spare connection closes", "s", gt=0)] = 300.0
    watch_interval_s: Annotated[
        float, _doc("how often a worker reads the database's lineage, schema and keys", "s", gt=0, le=1)
    ] = 0.5


class EmbeddingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where vectors come from."""

    provider: Annotated[
        Literal["wordllama", "openai", "none"],
        _doc(
            "wordllama = offline, in the process; openai = any endpoint of that protocol; none = clients bring vectors"
        ),
    ] = "wordllama"
    model: Annotated[str, _doc("model name; needed for openai")] = ""
    base_url: Annotated[str, _doc("base address of the endpoint, without /embeddings; needed for openai")] = ""
    api_key: Annotated[str, _doc("key of the endpoint")] = ""
    dimensions: Annotated[
        int,
        _doc(
            "length of a vector; 0 = the model's own (wordllama); needed for openai and none",
            "numbers",
            ge=0,
            le=16000,
        ),
    ] = 0
    send_dimensions: Annotated[bool, _doc("send `dimensions` to the endpoint")] = False
    encoding_format: Annotated[
        Literal["base64", "float", ""], _doc("form of vectors asked of the endpoint; empty = not sent")
    ] = "base64"
    parallel_requests: Annotated[int, _doc("calls of the endpoint at once for one batch", "requests", ge=1, le=64)] = 4
    batch_size: Annotated[int, _doc("texts in one call of the model", "texts", ge=1, le=2048)] = 100
    timeout_s: Annotated[float, _doc("time one call of the endpoint may take", "s", gt=0, le=600)] = 30.0
    pool_connections: Annotated[int, _doc("connections to the endpoint, a worker", "connections", ge=1)] = 100
    pool_keepalive: Annotated[int, _doc("idle connections kept", "connections", ge=0)] = 20
    pool_keepalive_s: Annotated[float, _doc("how long an idle connection is kept", "s", gt=0)] = 30.0
    pool_timeout_s: Annotated[float, _doc("wait for a free connection to the endpoint", "s", gt=0)] = 5.0


class CacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Finished answers and embeddings, in the workers' memory."""

    memory_mb: Annotated[int, _doc("finished answers, all workers", "MiB", ge=0, le=1024 * 1024)] = 256
    entries: Annotated[int, _doc("finished answers of a worker", "answers", ge=1)] = 10_000
    ttl_s: Annotated[float, _doc("longest life of an answer", "s", gt=0)] = 300.0
    idle_s: Annotated[float, _doc("time without use after which an answer goes", "s", gt=0)] = 60.0
    embedding_entries: Annotated[int, _doc("embedded texts kept, a worker", "texts", ge=0)] = 1000
    embedding_ttl_s: Annotated[float, _doc("longest life of an embedded text", "s", gt=0)] = 600.0


class IndexConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Users whose memories are searched in the workers' memory."""

    memory_mb: Annotated[int, _doc("warm users, all workers", "MiB", ge=0, le=1024 * 1024)] = 512
    flat_limit: Annotated[
        int, _doc("memories of a user up to which every one is compared; above, hnswlib chooses", "memories", ge=100)
    ] = 40_000
    int8: Annotated[
        bool, _doc("keep an int8 copy of a large user's vectors: a fifth more memory, a third of a search's time")
    ] = True
    admit_window_s: Annotated[
        float, _doc("time within which a second search of a user loads its memories", "s", gt=0)
    ] = 600.0
    start_users: Annotated[
        int, _doc("most read users that a starting worker loads in the background; 0 = none", "users", ge=0, le=100_000)
    ] = 1000
    start_queries: Annotated[
        int, _doc("most frequent questions of each of them that are asked again", "questions", ge=0, le=50)
    ] = 20


class MemoryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The memory of the workers together: caches, warm users and everything else that is resident."""

    budget_mb: Annotated[
        int, _doc("from 80 % of it cold copies leave, from 95 % at once down to 70 %", "MiB", ge=64)
    ] = 1536
    watch_interval_s: Annotated[float, _doc("how often a worker reads its memory", "s", gt=0, le=60)] = 0.5


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest of everything a client may send."""

    text_bytes: Annotated[int, _doc("a memory's text, UTF-8", "bytes", ge=1)] = 64 * 1024
    tags: Annotated[int, _doc("tags of a memory", "tags", ge=0)] = 64
    tag_chars: Annotated[int, _doc("length of a tag", "characters", ge=1)] = 128
    entities: Annotated[int, _doc("entities of a memory", "entities", ge=0)] = 64
    entity_chars: Annotated[int, _doc("length of an entity", "characters", ge=1)] = 256
    metadata_bytes: Annotated[int, _doc("a memory's metadata as JSON", "bytes", ge=2)] = 16 * 1024
    metadata_depth: Annotated[int, _doc("nesting of the metadata", "levels", ge=1, le=64)] = 8
    user_id_bytes: Annotated[int, _doc("a user's id, UTF-8", "bytes", ge=1, le=2048)] = 256
    batch_items: Annotated[int, _doc("memories in one batch, ids in one get", "items", ge=1, le=10_000)] = 1000
    page_items: Annotated[
        int, _doc("memories or users on one page, results of one search", "items", ge=1, le=10_000)
    ] = 1000


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the service says while it runs. Texts of memories are never logged."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _doc("least important line that is logged")] = "info"
    format: Annotated[Literal["console", "json"], _doc("one readable line or one JSON object a line")] = "console"


def default_data_dir() -> str:
    """The platform's user data directory; the site's for root, whose home the database's account cannot enter."""
    directories = platformdirs.PlatformDirs("memfast", appauthor=False, use_site_for_root=True)
    path = directories.user_data_path
    return str(Path("/var/lib/memfast") if path.is_relative_to("/usr") else path)


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    profile: Annotated[
        Literal["balanced", "high-traffic", "memory-constrained", "throughput", "latency"],
        _doc("set of defaults that the other settings may override"),
    ] = "balanced"
    data_dir: Annotated[str, _doc("where the embedded database and everything else on disk lies")] = msgspec.field(
        default_factory=default_data_dir
    )
    server: ServerConfig = ServerConfig()
    postgres: PostgresConfig = PostgresConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    cache: CacheConfig = CacheConfig()
    index: IndexConfig = IndexConfig()
    memory: MemoryConfig = MemoryConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()


PROFILES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "high-traffic": {
        "postgres.pool_min": 20,
        "postgres.pool_max": 64,
        "server.backlog": 4096,
        "cache.memory_mb": 1024,
        "cache.entries": 50_000,
        "cache.ttl_s": 600.0,
        "cache.idle_s": 120.0,
        "cache.embedding_entries": 5000,
        "cache.embedding_ttl_s": 1200.0,
        "index.memory_mb": 1024,
        "memory.budget_mb": 4096,
    },
    "memory-constrained": {
        "postgres.pool_min": 1,
        "postgres.pool_max": 3,
        "embedding.batch_size": 25,
        "server.body_max_bytes": 4 * 1024 * 1024,
        "cache.memory_mb": 64,
        "cache.entries": 1000,
        "cache.ttl_s": 60.0,
        "cache.idle_s": 30.0,
        "cache.embedding_entries": 100,
        "cache.embedding_ttl_s": 300.0,
        "index.memory_mb": 128,
        "memory.budget_mb": 512,
    },
    "throughput": {"postgres.pool_min": 10, "postgres.pool_max": 10, "embedding.batch_size": 256},
    "latency": {
        "postgres.pool_min": 3,
        "postgres.pool_max": 3,
        "postgres.connect_timeout_s": 2.0,
        "embedding.batch_size": 50,
    },
}
"""What each profile changes of the defaults. The file, the environment and flags win over it."""

_UNPREFIXED = "server"
"""The section whose variables carry no section name: MEMFAST_PORT, not MEMFAST_SERVER_PORT."""

_NOT_SETTINGS = frozenset({"MEMFAST_CONFIG", "MEMFAST_API_KEY", "MEMFAST_NATIVE", "MEMFAST_BUILD"})
"""Variables of this prefix that something else reads."""

_SECRETS = frozenset({"embedding.api_key", "postgres.dsn"})


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
            variable="MEMFAST_" + named.replace(".", "_").upper(),
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
    if config.server.request_timeout_s > config.server.stop_timeout_s:
        raise ConfigError(
            f"server.stop_timeout_s = {config.server.stop_timeout_s} must not be shorter than "
            f"server.request_timeout_s = {config.server.request_timeout_s:g}: a stop would cut requests off"
        )
    return config
