"""The configured embedder, or the one that a database was moved to."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from msgspec import Struct

from memfast.bootstrap.telemetry import outgoing_parent
from memfast.config import Config, EmbeddingConfig
from memfast.embedding.guarded import GuardedEmbedder
from memfast.errors import CommandFailed, MemfastError
from memfast.ports import Clock, Embedder
from memfast.resilience.breaker import Breaker, log_transition

__all__ = ["adopted", "build_embedder", "guard_embedder", "load_embedder", "noted"]

_log = logging.getLogger("memfast")

_REMOTE = frozenset({"openai"})
"""Embedders that may be away, and whose vectors take longer to make than to fetch."""


def guard_embedder(config: Config, clock: Clock) -> GuardedEmbedder | None:
    """The configured embedder behind a breaker, where it is a remote one."""
    embedding = config.embedding
    if embedding.provider not in _REMOTE:
        return None
    breaker = Breaker("embedder", clock, failures=embedding.failures, hold_s=embedding.hold_s)
    breaker.listen(log_transition)
    slow_s = config.search.leg_timeout_ms / 1000 / 2  # less than searches wait, who gave up a little before counts too
    made = build_embedder(embedding, outgoing_parent(config))
    return GuardedEmbedder(made, breaker, clock, slow_s=slow_s, hold_s=embedding.hold_s)


class _Noted(Struct, frozen=True):
    """What decides what vectors mean and where they come from: no secrets, and nothing of how they are asked for."""

    provider: str
    model: str
    base_url: str
    dimensions: int
    send_dimensions: bool
    encoding_format: str


def noted(config: EmbeddingConfig) -> bytes:
    """An embedder's settings as a database keeps them beside its vectors."""
    return msgspec.json.encode(msgspec.convert(config, _Noted, from_attributes=True))


def adopted(config: EmbeddingConfig, settings: bytes) -> EmbeddingConfig:
    """The configuration with the embedder that a database was moved to.

    Another endpoint never gets the key of the one that is configured: it has `embedding.next_api_key`.
    """
    note = msgspec.json.decode(settings, type=_Noted)
    key = config.api_key if note.base_url == config.base_url else config.next_api_key
    return msgspec.convert(
        {**msgspec.to_builtins(config), **msgspec.to_builtins(note), "api_key": key}, EmbeddingConfig
    )


def build_embedder(config: EmbeddingConfig, traceparent: Callable[[], bytes | None] | None = None) -> Embedder:
    """The configured embedder; nothing is loaded or connected yet. A remote one is told the `traceparent` of a call.

    Each adapter is imported where it is chosen: what is not configured is not imported.
    """
    if config.provider == "none":
        from memfast.embedding.none import NoEmbedder  # noqa: PLC0415 the reason stands above

        return NoEmbedder(config.dimensions)
    if config.provider == "openai":
        from memfast.embedding.openai import OpenAIEmbedder  # noqa: PLC0415 the reason stands above

        return OpenAIEmbedder(
            base_url=config.base_url,
            model=config.model,
            dimensions=config.dimensions,
            api_key=config.api_key,
            send_dimensions=config.send_dimensions,
            encoding_format=config.encoding_format,
            parallel_requests=config.parallel_requests,
            batch_size=config.batch_size,
            timeout_s=config.timeout_s,
            pool_connections=config.pool_connections,
            pool_keepalive=config.pool_keepalive,
            pool_keepalive_s=config.pool_keepalive_s,
            pool_timeout_s=config.pool_timeout_s,
            traceparent=traceparent,
        )
    from memfast.embedding.wordllama import WordLlamaEmbedder  # noqa: PLC0415 the reason stands above

    embedder = WordLlamaEmbedder(batch_size=config.batch_size)
    if config.dimensions not in {0, embedder.dimensions}:
        raise CommandFailed(
            f"embedding.dimensions = {config.dimensions}: WordLlama's vectors have {embedder.dimensions}; leave it out"
        )
    return embedder


async def load_embedder(embedder: Embedder) -> None:
    """Load the model while the first requests arrive, so that none of them waits for all of it."""
    try:
        await embedder.check()
    except MemfastError as error:
        _log.warning("the embedder is not ready: %s", error)
