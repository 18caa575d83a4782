"""What tells the copy of the links what happens: in a worker, and for commands."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from msgspec import Struct

from memfast.bootstrap.database import open_pool
from memfast.bootstrap.graph import GraphLayer, open_graph
from memfast.bootstrap.ground import RELAY, Ground, Reporter, attached, open_connection
from memfast.bootstrap.tasks import run_beside
from memfast.config import Config, GraphConfig
from memfast.errors import ConfigError, MemfastError
from memfast.ports import Clock
from memfast.readings import Backlog
from memfast.resilience.clock import SystemClock
from memfast.service.relay import OutboxWatch, Relay, RelayLimits
from memfast.store.database import require_prepared
from memfast.store.pool import Pool, PoolSize
from memfast.store.relaying import PostgresOutbox

__all__ = ["GraphReport", "inspect_copy", "open_relay", "patient", "rebuild_graph", "switch_graph_off"]

BOUND_INTERVAL_S = 60.0
"""Time between two counts of the outbox by a service without a graph, in seconds."""


class GraphReport(Struct, frozen=True, kw_only=True):
    """The copy of the links: what the database says of it, and what it says itself.

    `graph`: built (it is a copy of this database), another (of something else, or of before), none (it is empty), away.
    `detail` says why it could not be asked. `users_to_come` were not asked for yet.
    """

    backlog: Backlog
    users: int
    users_to_come: int
    graph: str
    detail: str | None


@asynccontextmanager
async def open_relay(
    site: Ground, graph: GraphLayer | None, control: Pool, clock: Clock
) -> AsyncIterator[Relay | None]:
    """A worker's relay, at work while the context is open, over connections of its own.

    Without a copy None: then the worker sees that the outbox stays bounded, if somebody else has one and is away.
    """
    async with AsyncExitStack() as stack:
        if graph is None:
            watch = OutboxWatch(PostgresOutbox(control), site.config.graph.outbox_rows)
            run_beside(stack, watch.run(BOUND_INTERVAL_S))
            yield None
            return
        pool = await open_pool(site.config, site.address, RELAY)
        stack.push_async_callback(pool.close, 5.0)
        relay = Relay(PostgresOutbox(pool), graph.projection, clock, random.random, _limits(site.config.graph))
        run_beside(stack, relay.run())  # ended wherever it is: what is applied and not deleted is applied once more
        yield relay


async def rebuild_graph(config: Config, progress: Callable[[int, int], None], report: Reporter) -> int:
    """Build the copy anew, beside a running service or alone; returns how many users it has.

    Raises:
        ConfigError: no graph is configured.
        StartError: the database cannot be reached, is not prepared, or the graph went away for long.
        Unavailable: the graph or the database did not answer.
    """
    async with _outbox(config, report) as outbox, open_graph(patient(config), SystemClock()) as layer:
        if layer is None:
            raise _none()
        relay = Relay(outbox, layer.projection, SystemClock(), random.random, _limits(config.graph))
        return await relay.rebuild(progress)


async def inspect_copy(config: Config, report: Reporter) -> GraphReport:
    """What is known of the copy.

    Raises:
        StartError: the database cannot be reached, or is not prepared.
    """
    async with _outbox(config, report) as outbox, open_graph(patient(config), SystemClock()) as layer:
        backlog, standing = await outbox.backlog(2**31 - 1), await outbox.standing()
        users, to_come = await outbox.scopes()
        state, detail = "none", None if layer is not None else str(_none())
        try:
            mark = None if layer is None else await layer.projection.mark()
            if mark is not None:
                state = "built" if mark == standing.mark else "another"
        except MemfastError as error:
            state, detail = "away", str(error)
        return GraphReport(backlog=backlog, users=users, users_to_come=to_come, graph=state, detail=detail)


async def switch_graph_off(config: Config, report: Reporter) -> None:
    """Write nothing for the copy any more, until a service that has one configured starts.

    Raises:
        StartError: the database cannot be reached, or is not prepared.
    """
    async with _outbox(config, report) as outbox:
        await outbox.switch_off("off")
        await OutboxWatch(outbox, config.graph.outbox_rows).look()


def patient(config: Config) -> Config:
    """The configuration of a command, whose questions to the graph may take as long as changes."""
    graph = config.graph
    longest_s = max(graph.read_timeout_s, graph.write_timeout_s)
    patient = msgspec.structs.replace(graph, read_timeout_s=longest_s, connect_timeout_s=longest_s)
    return msgspec.structs.replace(config, graph=patient)


def _limits(graph: GraphConfig) -> RelayLimits:
    return RelayLimits(outbox_rows=graph.outbox_rows, batch_steps=graph.batch_steps, poll_s=graph.poll_s)


def _none() -> ConfigError:
    return ConfigError("graph.uri is not set: there is no graph")


@asynccontextmanager
async def _outbox(config: Config, report: Reporter) -> AsyncIterator[PostgresOutbox]:
    with attached(config, report) as address:
        connection = await open_connection(config, address)
        try:
            await require_prepared(connection)
        finally:
            await connection.close()
        pool = await open_pool(config, address, PoolSize(1, RELAY.maximum + 1))
        try:
            yield PostgresOutbox(pool)
        finally:
            await pool.close(5.0)
