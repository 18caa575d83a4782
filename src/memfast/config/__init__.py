"""Settings: typed defaults, a TOML file, `MEMFAST_*` variables and flags, in that order of rising precedence."""

from memfast.config.graph import GraphConfig
from memfast.config.loading import Effective, Setting, load, settings
from memfast.config.profiles import PROFILES
from memfast.config.sections import (
    CacheConfig,
    Config,
    EmbeddingConfig,
    IndexConfig,
    Language,
    LimitsConfig,
    LogConfig,
    McpConfig,
    MemoryConfig,
    PostgresConfig,
    RedisConfig,
    SearchConfig,
    ServerConfig,
    default_data_dir,
)

__all__ = [
    "PROFILES",
    "CacheConfig",
    "Config",
    "Effective",
    "EmbeddingConfig",
    "GraphConfig",
    "IndexConfig",
    "Language",
    "LimitsConfig",
    "LogConfig",
    "McpConfig",
    "MemoryConfig",
    "PostgresConfig",
    "RedisConfig",
    "SearchConfig",
    "ServerConfig",
    "Setting",
    "default_data_dir",
    "load",
    "settings",
]
