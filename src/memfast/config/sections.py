"""Settings as types: every field carries its default, and in its `Meta` its unit and its line of documentation."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import platformdirs
from msgspec import Struct

from memfast.config.copies import CacheConfig, IndexConfig, MemoryConfig
from memfast.config.fields import doc as _doc
from memfast.config.graph import GraphConfig
from memfast.config.telemetry import TelemetryConfig

__all__ = [
    "BackgroundConfig",
    "CacheConfig",
    "CoherenceConfig",
    "Config",
    "EmbeddingConfig",
    "HistoryConfig",
    "IndexConfig",
    "Language",
    "LimitsConfig",
    "LinksConfig",
    "LogConfig",
    "McpConfig",
    "MemoryConfig",
    "MetricsConfig",
    "PostgresConfig",
    "RedisConfig",
    "ResilienceConfig",
    "SearchConfig",
    "ServerConfig",
    "WritesConfig",
    "default_data_dir",
]

Language: TypeAlias = Literal[
    "none",
    "arabic",
    "armenian",
    "basque",
    "catalan",
    "czech",
    "danish",
    "dutch",
    "english",
    "esperanto",
    "estonian",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "nepali",
    "norwegian",
    "persian",
    "polish",
    "portuguese",
    "romanian",
    "russian",
    "serbian",
    "sesotho",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "yiddish",
]
"""What the words of memories can be stemmed as, by Snowball."""


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP server."""

    host: Annotated[str, _doc("address to listen on; other than loopback needs an API key")] = "127.0.0.1"
    port: Annotated[int, _doc("TCP port", ge=1, le=65535)] = 8077
    workers: Annotated[int, _doc("worker processes", "processes", ge=1, le=64)] = 1
    read_timeout_s: Annotated[
        float, _doc("time a read may take unless its Memfast-Timeout-Ms says otherwise", "s", gt=0, le=3600)
    ] = 2.0
    write_timeout_s: Annotated[float, _doc("the same for everything else", "s", gt=0, le=3600)] = 10.0
    timeout_max_s: Annotated[float, _doc("the longest that Memfast-Timeout-Ms can ask for", "s", gt=0, le=3600)] = 30.0
    under_way_max: Annotated[
        int, _doc("requests of a worker under way that have no finished answer; one more is refused", "requests", ge=1)
    ] = 512
    body_timeout_s: Annotated[float, _doc("time a request's body may take to arrive", "s", gt=0, le=3600)] = 10.0
    body_max_bytes: Annotated[int, _doc("largest request body", "bytes", ge=1024)] = 10 * 1024 * 1024
    streams_max: Annotated[
        int, _doc("exports and imports of a worker under way; one more is refused", "streams", ge=1, le=1000)
    ] = 2
    stop_timeout_s: Annotated[int, _doc("time for running requests when the service stops", "s", ge=1, le=600)] = 35
    backlog: Annotated[int, _doc("connections kept waiting or open, all workers", "connections", ge=1)] = 1024

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


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
    disk_reserve_mb: Annotated[
        int,
        _doc(
            "disk space kept free for the embedded PostgreSQL's own needs: below it writes are refused with 507",
            "MiB",
            ge=0,
            le=1024 * 1024,
        ),
    ] = 256
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
    next_api_key: Annotated[
        str, _doc("key of the endpoint that `memfast reembed` moves to, if `base_url` does not name it yet")
    ] = ""
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
    failures: Annotated[
        int, _doc("failures within 10 s after which the endpoint is not asked any more", "failures", ge=1, le=1000)
    ] = 5
    hold_s: Annotated[
        float, _doc("time until it is asked again by a request; a look that succeeds comes first", "s", gt=0, le=3600)
    ] = 10.0


class SearchConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a search ranks. A request may say otherwise for itself, but for the language."""

    language: Annotated[Language, _doc("language by which words are stemmed; none = words are taken as they stand")] = (
        "english"
    )
    fusion: Annotated[
        Literal["convex", "rrf"], _doc("convex = weighed scores; rrf = ranks alone, which a weak leg spoils")
    ] = "convex"
    lexical_weight: Annotated[
        float, _doc("weight of words; -1 = by the embedder: 0.7 for wordllama, else 0.5", "share", ge=-1, le=1)
    ] = -1.0
    vector_weight: Annotated[float, _doc("weight of a memory's own vector", "share", ge=0, le=1)] = 0.0
    context_weight: Annotated[
        float,
        _doc(
            "weight of its vector and those beside it in its run; -1 = by the embedder: 0.3 for wordllama, else 0.5",
            "share",
            ge=-1,
            le=1,
        ),
    ] = -1.0
    convergence: Annotated[
        float, _doc("bonus for what words and meaning agree on; 0.1 and 0.2 cost quality", "share", ge=0, le=1)
    ] = 0.0
    guaranteed: Annotated[
        int, _doc("best hits by words that always stand among the results, at most half of them", "hits", ge=0, le=100)
    ] = 1
    leg_timeout_ms: Annotated[
        int,
        _doc(
            "time to read a cold user's memories, for an endpoint to embed a query, or to follow links; then without",
            "ms",
            ge=10,
            le=60_000,
        ),
    ] = 1000
    neighbors: Annotated[bool, _doc("memories of one run lend score to those beside them")] = False
    synonym_weight: Annotated[
        float,
        _doc("what a related word counts beside one of the query; 0 = off; needs wordnet_dir", "share", ge=0, le=1),
    ] = 0.0
    wordnet_dir: Annotated[
        str, _doc("folder with WordNet's files, e.g. /usr/share/wordnet; empty = no related words")
    ] = ""
    feedback_weight: Annotated[
        float, _doc("how far a query's vector moves towards its best hits; 0 = off, 1 finds more", "share", ge=0, le=4)
    ] = 0.0
    similarity_weight: Annotated[float, _doc("what the match counts beside importance", "share", ge=0, le=1)] = 1.0
    importance_weight: Annotated[float, _doc("what a memory's importance counts; 0 = off", "share", ge=0, le=1)] = 0.0
    recency_factor: Annotated[
        float, _doc("what a young memory's score is multiplied by; 1 = off", "times", ge=1, le=10)
    ] = 1.0
    recency_window_s: Annotated[float, _doc("age up to which a memory is young", "s", ge=0)] = 3600.0
    duplicate_similarity: Annotated[
        float,
        _doc(
            "cosine from which two memories are duplicates of each other, where a search folds them",
            "cosine",
            ge=0.5,
            le=1,
        ),
    ] = 0.95


class HistoryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What memories said before they were changed, deleted or expired."""

    retention_days: Annotated[
        float, _doc("how long replaced and deleted text is kept for history and undelete", "days", ge=0, le=36_500)
    ] = 30.0
    expiry_interval_s: Annotated[
        float, _doc("how often expired memories, which no read shows, are removed", "s", gt=0, le=86_400)
    ] = 60.0
    erase_interval_s: Annotated[
        float, _doc("how often history beyond its retention is erased", "s", gt=0, le=86_400)
    ] = 3600.0


class BackgroundConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Work that no request waits for."""

    queue_limit: Annotated[int, _doc("tasks of a worker that may wait", "tasks", ge=1, le=1_000_000)] = 1000
    parallel: Annotated[int, _doc("tasks of a worker that run at once", "tasks", ge=1, le=64)] = 3


class LinksConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links that new and changed memories get by themselves, after the write was answered."""

    similar: Annotated[int, _doc("most similar memories that each is linked with; 0 = none", "links", ge=0, le=20)] = 3
    similar_min: Annotated[float, _doc("cosine from which memories are similar", "cosine", ge=0, le=1)] = 0.75
    entities: Annotated[
        int, _doc("memories of shared entities that each is linked with; 0 = none", "links", ge=0, le=20)
    ] = 3
    entity_memories: Annotated[int, _doc("an entity that more have says nothing", "memories", ge=1, le=1000)] = 50
    pause_ms: Annotated[float, _doc("wait for more memories of the user", "ms", ge=0, le=60_000)] = 250.0
    batch_items: Annotated[int, _doc("largest batch that gets links; more is a load", "memories", ge=0)] = 50
    queue_items: Annotated[int, _doc("a worker's memories that wait; more get no links", "memories", ge=1)] = 1000


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
    line_bytes: Annotated[int, _doc("a line of an import", "bytes", ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    batch_items: Annotated[int, _doc("memories in one batch, ids in one get", "items", ge=1, le=10_000)] = 1000
    page_items: Annotated[
        int, _doc("memories or users on one page, results of one search", "items", ge=1, le=10_000)
    ] = 1000
    filter_conditions: Annotated[
        int, _doc("conditions of a filter, each AND, OR and NOT being one", "conditions", ge=1, le=1000)
    ] = 64
    filter_depth: Annotated[int, _doc("nesting of a filter", "levels", ge=1, le=32)] = 8
    filter_values: Annotated[int, _doc("values of one list in a filter", "values", ge=1, le=10_000)] = 1000


class RedisConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cache that workers and hosts share: answers that took long, and vectors of remote embedders."""

    url: Annotated[str, _doc("address: redis://, rediss:// or unix://; empty = none")] = ""
    ttl_s: Annotated[float, _doc("longest life of a value", "s", ge=1, le=86_400)] = 3600.0
    min_cost_ms: Annotated[
        float, _doc("searches that take less are not shared: asking Redis would not be faster", "ms", ge=0)
    ] = 1.0
    value_max_bytes: Annotated[int, _doc("largest value", "bytes", ge=1024, le=64 * 1024 * 1024)] = 256 * 1024
    timeout_s: Annotated[float, _doc("the longest that a request waits for it", "s", gt=0, le=5)] = 0.1
    acquire_timeout_s: Annotated[float, _doc("wait for a free connection", "s", gt=0, le=60)] = 0.5
    pool_min: Annotated[int, _doc("connections opened at the start, all workers", "connections", ge=0, le=10_000)] = 10
    pool_max: Annotated[int, _doc("largest number of connections, all workers", "connections", ge=1, le=10_000)] = 50
    failures: Annotated[
        int, _doc("failures within 10 s after which it is not asked any more", "failures", ge=1, le=1000)
    ] = 3
    hold_s: Annotated[
        float, _doc("time until it is asked again by a request; a ping that is answered comes first", "s", gt=0)
    ] = 5.0


class CoherenceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a copy may be believed."""

    mode: Annotated[
        Literal["host", "cluster"],
        _doc("host = this service alone writes; cluster = services on other hosts write to the same database too"),
    ] = "host"


class ResilienceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when something that the service needs is away, slow, or asked for too much."""

    mode: Annotated[
        Literal["auto", "full", "reduced", "cache_only", "essential"],
        _doc("auto = by what works; another one is kept whatever happens, for incidents and tests"),
    ] = "auto"
    postgres_failures: Annotated[
        int, _doc("failures within 10 s after which PostgreSQL is not asked any more", "failures", ge=1, le=1000)
    ] = 5
    postgres_hold_s: Annotated[
        float, _doc("time until it is asked again by a request; a check that succeeds comes first", "s", gt=0, le=3600)
    ] = 30.0
    postgres_probes: Annotated[
        int, _doc("requests that are let through then, all of which must succeed", "requests", ge=1, le=100)
    ] = 1
    slow_read_s: Annotated[float, _doc("a read of PostgreSQL that takes longer is a failure", "s", gt=0, le=3600)] = 1.0
    slow_write_s: Annotated[float, _doc("a transaction that takes longer is a failure", "s", gt=0, le=3600)] = 5.0
    waiting_max: Annotated[
        int, _doc("requests of a worker that wait for a connection; one more is refused", "requests", ge=0, le=100_000)
    ] = 64


class WritesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How writes share transactions, in each worker."""

    flush_items: Annotated[
        int, _doc("single changes in one transaction; a batch is a transaction of its own", "changes", ge=1, le=1000)
    ] = 50
    flush_wait_ms: Annotated[
        float, _doc("how long a change waits for others while a transaction of such is under way", "ms", ge=0, le=1000)
    ] = 100.0
    flush_timeout_s: Annotated[float, _doc("time a transaction may take until its COMMIT", "s", gt=0, le=3600)] = 20.0
    flushes: Annotated[
        int, _doc("transactions under way at once, fewer than a worker's connections", "transactions", ge=1, le=64)
    ] = 2
    queue_items: Annotated[int, _doc("single changes that may wait; one more is refused", "changes", ge=1)] = 1000
    queue_batch_items: Annotated[int, _doc("changes that may wait in batches", "changes", ge=1)] = 10_000
    key_retention_h: Annotated[
        float, _doc("how long an Idempotency-Key and the answer to its request are kept", "h", gt=0, le=8760)
    ] = 24.0
    batch_age_ms: Annotated[
        float, _doc("wait after which a batch is no longer behind what came later", "ms", ge=0, le=60_000)
    ] = 500.0


class MetricsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the service counts of itself."""

    public: Annotated[
        bool, _doc("GET /metrics needs no key; it never does where server.host is loopback, else an administrator's")
    ] = False


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the service says while it runs. Texts of memories are never logged."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _doc("least important line that is logged")] = "info"
    format: Annotated[Literal["console", "json"], _doc("one readable line or one JSON object a line")] = "console"
    slow_ms: Annotated[float, _doc("an operation that takes as long is logged with its stages", "ms", ge=0)] = 100.0
    slow_search_ms: Annotated[float, _doc("the same for a search", "ms", ge=0)] = 50.0
    error_texts: Annotated[
        bool, _doc("log what unexpected errors say too, which may quote memories; their types and traces always are")
    ] = False


def default_data_dir() -> str:
    """The platform's user data directory; the site's for root, whose home the database's account cannot enter."""
    directories = platformdirs.PlatformDirs("memfast", appauthor=False, use_site_for_root=True)
    path = directories.user_data_path
    return str(Path("/var/lib/memfast") if path.is_relative_to("/usr") else path)


class McpConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The MCP face."""

    hosts: Annotated[
        str, _doc("names, apart from addresses and localhost, by which /mcp is called; several with commas between")
    ] = ""


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
    search: SearchConfig = SearchConfig()
    index: IndexConfig = IndexConfig()
    memory: MemoryConfig = MemoryConfig()
    history: HistoryConfig = HistoryConfig()
    writes: WritesConfig = WritesConfig()
    background: BackgroundConfig = BackgroundConfig()
    links: LinksConfig = LinksConfig()
    limits: LimitsConfig = LimitsConfig()
    redis: RedisConfig = RedisConfig()
    graph: GraphConfig = GraphConfig()
    coherence: CoherenceConfig = CoherenceConfig()
    resilience: ResilienceConfig = ResilienceConfig()
    mcp: McpConfig = McpConfig()
    metrics: MetricsConfig = MetricsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    log: LogConfig = LogConfig()
