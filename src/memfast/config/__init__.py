"""Settings: typed defaults, a TOML file, `MEMFAST_*` variables and flags, in that order of rising precedence."""

from memfast.config.copies import CacheConfig, IndexConfig, MemoryConfig
from memfast.config.graph import GraphConfig
from memfast.config.loading import Effective, Setting, changed, load, settings
from memfast.config.profiles import PROFILES
from memfast.config.sections import (
    Config,
    EmbeddingConfig,
    Language,
    LimitsConfig,
    LogConfig,
    McpConfig,
    PostgresConfig,
    RedisConfig,
    SearchConfig,
    ServerConfig,
    default_data_dir,
)
from memfast.config.telemetry import TelemetryConfig

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
    "TelemetryConfig",
    "changed",
    "default_data_dir",
    "load",
    "settings",
]
