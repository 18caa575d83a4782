"""Connections to Neo4j whose every wait is bounded, behind a breaker; its driver's errors become ours here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from msgspec import Struct
from neo4j import READ_ACCESS, WRITE_ACCESS, AsyncDriver, AsyncGraphDatabase, AsyncTransaction
from neo4j.exceptions import ConfigurationError, DriverError, Neo4jError

from memfast.errors import CommandFailed, GraphUnavailable
from memfast.graph.queries import COPY
from memfast.readings import Neo4jFacts
from memfast.resilience.breaker import Breaker, Outcome

__all__ = ["Connections", "DriverLimits", "inspect_neo4j"]

_log = logging.getLogger("memfast.graph")

PLAN_TIMEOUT_S = 60.0
"""How long a statement may take that is only to be planned, in seconds: a server that has just started is slow at it,
and begins anew where nobody waits for the end."""

PATIENCE_S = 5.0
"""How long a ping waits while nobody else asks, in seconds: a server that has just started is slow with it."""

CLOSE_S = 2.0
"""How long connections may take to say good-bye, in seconds."""

_FAILURES = (DriverError, Neo4jError, OSError, TimeoutError)


class DriverLimits(Struct, frozen=True, kw_only=True):
    """Bounds on waits, in seconds, and on connections."""

    acquire_timeout_s: float
    connect_timeout_s: float
    read_timeout_s: float
    write_timeout_s: float
    idle_check_s: float
    lifetime_s: float
    pool_min: int
    pool_max: int


class Connections:
    """Statements to one database of a Neo4j.

    Args:
        driver: its official driver.
        database: its name, which saves asking for it.
        breaker: while it is not closed nobody waits.
        limits: bounds.
    """

    def __init__(self, driver: AsyncDriver, database: str, breaker: Breaker, limits: DriverLimits) -> None:
        self._driver = driver
        self._database = database
        self._breaker = breaker
        self._limits = limits
        self._unopened = limits.pool_min

    @classmethod
    def open(cls, uri: str, user: str, password: str, database: str, breaker: Breaker, limits: DriverLimits) -> Self:
        """Connections to a `bolt://` or `neo4j://` address; connects when it is used.

        Raises:
            ValueError: the address is not valid.
        """
        return cls(_driver(uri, user, password, limits), database, breaker, limits)

    async def read(self, statement: str, **values: Any) -> list[list[Any]]:
        """The rows of a statement that only reads, in one round trip.

        Raises:
            GraphUnavailable: it did not answer within the time for reads, or may not be asked.
        """
        async with self._guarded(self._limits.read_timeout_s):
            return await self._run(READ_ACCESS, statement, values)

    async def look(self, statement: str, **values: Any) -> list[list[Any]]:
        """As `read`, for those that no request waits for.

        Raises:
            GraphUnavailable: as with `read`, by the time for writes.
        """
        async with self._guarded(self._limits.write_timeout_s):
            return await self._run(READ_ACCESS, statement, values)

    async def plan(self, statement: str, **values: Any) -> None:
        """Let the server plan a statement that only reads, whatever the breaker's state is, which learns nothing of it.

        Raises:
            GraphUnavailable: it was not done within `PLAN_TIMEOUT_S`.
        """
        try:
            async with asyncio.timeout(PLAN_TIMEOUT_S):
                await self._run(READ_ACCESS, statement, values)
        except _FAILURES as error:
            raise GraphUnavailable(f"Neo4j did not plan a statement: {_reason(error)}") from error

    async def write(self, statement: str, **values: Any) -> list[list[Any]]:
        """The rows of a statement that is a transaction of its own.

        Raises:
            GraphUnavailable: as with `read`, by the time for writes. It may have been done.
        """
        async with self._guarded(self._limits.write_timeout_s):
            return await self._run(WRITE_ACCESS, statement, values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """A transaction that is committed at the end, and rolled back at an error; all of it within one bound.

        Raises:
            GraphUnavailable: as with `write`.
        """
        async with (
            self._guarded(self._limits.write_timeout_s),
            self._driver.session(database=self._database, default_access_mode=WRITE_ACCESS) as session,
            await session.begin_transaction(timeout=self._limits.write_timeout_s) as transaction,
        ):
            yield transaction
            await transaction.commit()

    async def ping(self) -> None:
        """Ask for nothing, whatever the breaker's state is, and tell it how that went. The first opens connections.

        Raises:
            GraphUnavailable: nobody answered.
        """
        count, self._unopened = max(1, self._unopened), 0
        timeout_s = self._limits.read_timeout_s + self._limits.connect_timeout_s
        if self._breaker.state != "closed":
            timeout_s = max(timeout_s, PATIENCE_S)
        try:
            async with asyncio.timeout(timeout_s):
                pings = (self._run(READ_ACCESS, COPY.ping, {}) for _ in range(count))
                answers = await asyncio.gather(*pings, return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        except _FAILURES as error:
            self._breaker.pinged(answered=False, reason=_reason(error))
            raise GraphUnavailable(f"Neo4j did not answer: {_reason(error)}") from error
        self._breaker.pinged(answered=True)

    async def close(self) -> None:
        """Close all connections."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._driver.close()
        except _FAILURES as error:
            _log.debug("connections to Neo4j were not closed in order (%s)", type(error).__name__)

    async def _run(self, access: str, statement: str, values: dict[str, Any]) -> list[list[Any]]:
        async with self._driver.session(database=self._database, default_access_mode=access) as session:
            result = await session.run(statement, values)
            return [record.values() async for record in result]

    @asynccontextmanager
    async def _guarded(self, timeout_s: float) -> AsyncIterator[None]:
        ticket = self._breaker.admit()
        if ticket is None:
            raise GraphUnavailable(f"Neo4j is not asked for now: {self._breaker.reason}", begun=False)
        outcome: Outcome = "neutral"
        reason = ""
        try:
            async with asyncio.timeout(timeout_s):
                yield
            outcome = "success"
        except _FAILURES as error:
            outcome, reason = "failure", _reason(error)
            raise GraphUnavailable(f"Neo4j did not answer: {reason}") from error
        finally:
            self._breaker.settle(ticket, outcome, reason)


async def inspect_neo4j(uri: str, user: str, password: str, database: str, limits: DriverLimits) -> Neo4jFacts:
    """Ask a server for its version and whether it has APOC.

    Raises:
        CommandFailed: it cannot be reached, or refuses the password.
        ValueError: the address is not valid.
    """
    driver = _driver(uri, user, password, limits)
    try:
        async with asyncio.timeout(limits.write_timeout_s), driver.session(database=database) as session:
            name, version, edition = (await (await session.run(COPY.components)).single(strict=True)).values()
            (apoc,) = (await (await session.run(COPY.procedures)).single(strict=True)).values()
    except _FAILURES as error:
        raise CommandFailed(f"Neo4j cannot be reached: {_reason(error)}") from error
    finally:
        await driver.close()
    return Neo4jFacts(f"{name} {version} {edition}", apoc=bool(apoc))


def _driver(uri: str, user: str, password: str, limits: DriverLimits) -> AsyncDriver:
    """Nothing is tried again: a failure must be known in time to be counted.

    Raises:
        ValueError: the address is not valid.
    """
    try:
        return AsyncGraphDatabase.driver(
            uri,
            auth=(user, password) if user else None,
            max_connection_pool_size=limits.pool_max,
            connection_acquisition_timeout=limits.acquire_timeout_s,
            connection_timeout=limits.connect_timeout_s,
            connection_write_timeout=limits.write_timeout_s,
            max_transaction_retry_time=0,
            max_connection_lifetime=limits.lifetime_s,
            liveness_check_timeout=limits.idle_check_s,
            keep_alive=True,
            telemetry_disabled=True,
            notifications_min_severity="OFF",
            user_agent="memfast",
        )
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _reason(error: BaseException) -> str:
    """What went wrong, without what was sent: a server's message may quote it."""
    return getattr(error, "code", None) or type(error).__name__
