"""The copy of the links in Neo4j, where one is configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from memfast.config import Config, GraphConfig
from memfast.errors import ConfigError
from memfast.ports import Clock
from memfast.ports.projection import Projection
from memfast.readings import Neo4jFacts
from memfast.resilience.breaker import Breaker, log_transition

if TYPE_CHECKING:
    from memfast.graph.driver import DriverLimits

__all__ = ["GraphLayer", "inspect_graph", "open_graph"]


class GraphLayer(Struct, frozen=True):
    """The copy, and the breaker before it."""

    projection: Projection
    breaker: Breaker


@asynccontextmanager
async def open_graph(config: Config, clock: Clock) -> AsyncIterator[GraphLayer | None]:
    """Open the configured copy; None without one. That it cannot be reached is no error.

    Raises:
        ConfigError: the driver is not installed, or the address is not valid.
    """
    graph = config.graph
    if not graph.uri:
        yield None
        return
    try:
        from memfast.graph.driver import Connections  # noqa: PLC0415 what is not configured is not imported
        from memfast.graph.neo4j import Neo4jProjection  # noqa: PLC0415 as before
    except ImportError as error:
        raise _missing() from error
    breaker = Breaker("neo4j", clock, failures=graph.failures, hold_s=graph.hold_s)
    breaker.listen(log_transition)
    limits = _limits(graph, config.server.workers)
    try:
        connections = Connections.open(graph.uri, graph.user, graph.password, graph.database, breaker, limits)
    except ValueError as error:
        raise _invalid(error) from error
    projection = Neo4jProjection(connections)
    watch = asyncio.create_task(projection.watch())
    try:
        yield GraphLayer(projection, breaker)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await projection.close()


async def inspect_graph(config: Config) -> Neo4jFacts:
    """See `graph.driver.inspect_neo4j`.

    Raises:
        CommandFailed: it cannot be reached, or refuses the password.
        ConfigError: the driver is not installed, or the address is not valid.
    """
    try:
        from memfast.graph.driver import inspect_neo4j  # noqa: PLC0415 as in open_graph
    except ImportError as error:
        raise _missing() from error
    graph = config.graph
    try:
        return await inspect_neo4j(graph.uri, graph.user, graph.password, graph.database, _limits(graph, 1))
    except ValueError as error:
        raise _invalid(error) from error


def _limits(config: GraphConfig, workers: int) -> DriverLimits:
    from memfast.graph.driver import DriverLimits  # noqa: PLC0415 as in open_graph

    return DriverLimits(
        acquire_timeout_s=config.acquire_timeout_s,
        connect_timeout_s=config.connect_timeout_s,
        read_timeout_s=config.read_timeout_s,
        write_timeout_s=config.write_timeout_s,
        idle_check_s=config.idle_check_s,
        lifetime_s=config.lifetime_s,
        pool_min=min(config.pool_min, config.pool_max) // workers,
        pool_max=max(2, config.pool_max // workers),
    )


def _missing() -> ConfigError:
    return ConfigError('graph.uri is set, and the driver is not installed: pip install "memfast[neo4j]"')


def _invalid(error: ValueError) -> ConfigError:
    return ConfigError(f"graph.uri is not valid: {error}")
