"""Moving a database to another embedding model, beside a running service or alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from memfast.bootstrap.embedder import build_embedder, noted
from memfast.bootstrap.ground import Reporter, attached, open_connection
from memfast.bootstrap.stores import snapshots_folder
from memfast.config import Config
from memfast.index.pool import unsave_all
from memfast.resilience.clock import SystemClock
from memfast.resilience.retry import Budget, Retry
from memfast.service.reembed import Generation, Progress, Reembed
from memfast.store.database import require_prepared
from memfast.store.reembedding import PostgresReembedding, read_generations

__all__ = ["inspect_generations", "with_reembedding"]

_T = TypeVar("_T")

ATTEMPTS = 8
"""How often a model is asked for the same vectors."""

BASE_S = 0.5
"""The longest wait before the second time, in seconds; it doubles."""


async def with_reembedding(
    config: Config, work: Callable[[Reembed], Awaitable[_T]], progress: Progress, report: Reporter
) -> _T:
    """Run a command's work on the move to the configured embedder.

    Raises:
        StartError: the database cannot be reached, is not prepared, or another command works on it.
    """
    async with _connected(config, report) as connection:
        database = await PostgresReembedding.claimed(connection)
        embedder, clock = build_embedder(config.embedding), SystemClock()
        try:
            budget = Budget(share=1.0, burst=100.0)  # nobody else asks on this process's behalf
            retry = Retry(budget, clock, asyncio.sleep, random.random, attempts=ATTEMPTS, base_s=BASE_S)
            settings, forget = noted(config.embedding), partial(unsave_all, snapshots_folder(config))
            return await work(Reembed(database, embedder, settings, retry, clock, progress, forget))
        finally:
            await embedder.close()


async def inspect_generations(config: Config, report: Reporter) -> list[tuple[Generation, int]]:
    """Every generation of vectors, oldest first, with the number of its vectors.

    Raises:
        StartError: as `with_reembedding`.
    """
    async with _connected(config, report) as connection:
        return await read_generations(connection)


@asynccontextmanager
async def _connected(config: Config, report: Reporter) -> AsyncIterator[Any]:
    with attached(config, report) as address:
        connection = await open_connection(config, address)
        try:
            await require_prepared(connection)
            yield connection
        finally:
            await connection.close()
