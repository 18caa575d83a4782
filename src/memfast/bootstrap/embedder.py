"""The configured embedder."""

from __future__ import annotations

from memfast.config import EmbeddingConfig
from memfast.errors import CommandFailed
from memfast.ports import Embedder

__all__ = ["build_embedder"]


def build_embedder(config: EmbeddingConfig) -> Embedder:
    """The configured embedder; nothing is loaded or connected yet.

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
        )
    from memfast.embedding.wordllama import WordLlamaEmbedder  # noqa: PLC0415 the reason stands above

    embedder = WordLlamaEmbedder(batch_size=config.batch_size)
    if config.dimensions not in {0, embedder.dimensions}:
        raise CommandFailed(
            f"embedding.dimensions = {config.dimensions}: WordLlama's vectors have {embedder.dimensions}; leave it out"
        )
    return embedder
