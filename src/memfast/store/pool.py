"""Connections to PostgreSQL: the pool, its codecs, and the one place where driver errors become ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
from msgspec import Struct

from memfast.errors import (
    DatabaseRefused,
    DeadlineExceeded,
    EmbedderChanged,
    MemfastError,
    OutcomeUnknown,
    Overloaded,
    StoreFull,
    StoreUnavailable,
)
from memfast.ports import Clock
from memfast.readings import PoolSnapshot
from memfast.resilience.breaker import Breaker, Outcome, Transition
from memfast.resilience.clock import SystemClock
from memfast.resilience.retry import Budget, Retry
from memfast.store.codecs import register_codecs
from memfast.store.counts import Counts, PoolMeters
from memfast.store.room import Room
from memfast.store.session import keep_session, session_settings

__all__ = [
    "CHANGED",
    "Pool",
    "PoolPolicy",
    "PoolSize",
    "Purpose",
    "connect",
    "pool_size",
    "translated",
]

_log = logging.getLogger("memfast.store")

_UNREACHABLE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.PostgresSystemError,
)
_BROKEN = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InternalClientError,
)
"""After these another connection may do better."""

CHANGED = "the database was moved to another embedding model just now; nothing was written. Repeat the request"
"""Told where a generation of vectors is not the current one any more."""

PING_S = 1.0
"""How long a sign of life may take, in seconds."""

RETRY_AFTER_S = 5
"""The longest wait that a client is told while PostgreSQL is away, in seconds: pings find it long before the hold."""

Purpose = Literal["read", "write", "bulk"]
"""What a connection is taken for: a use for `bulk` work may be long."""


class PoolSize(Struct, frozen=True):
    """Connections of one worker: kept open, and at most."""

    minimum: int
    maximum: int


def pool_size(minimum: int, maximum: int, *, workers: int, embedded: bool) -> PoolSize:
    """Split the service's connections over its workers; 0 stands for the default of the kind of server."""
    least, most = (4 * workers, 4 * workers) if embedded else (20, 100)
    most = maximum or max(most, minimum)
    least = min(minimum or least, most)
    return PoolSize(max(1, least // workers), max(1, most // workers))


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the driver's errors into ours. What is not listed here is a bug and stays what it is."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise StoreFull(
            "PostgreSQL has no disk space left; nothing was written. Free space, then repeat the request",
            retry_after_s=30,
        ) from error
    except asyncpg.NotNullViolationError as error:
        if (error.table_name, error.column_name) != ("scopes", "generation"):
            raise
        raise EmbedderChanged(CHANGED, begun=False) from None  # its details quote the row
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError) as error:
        raise DeadlineExceeded("PostgreSQL cancelled the statement: it ran longer than the limit") from error
    except TimeoutError as error:
        raise DeadlineExceeded("PostgreSQL did not answer within the limit of one statement") from error
    except _UNREACHABLE as error:
        raise StoreUnavailable(f"PostgreSQL cannot serve the request now ({type(error).__name__})") from error


async def connect(arguments: dict[str, Any], *, connect_timeout_s: float, command_timeout_s: float) -> Any:
    """One connection with the pool's codecs and settings, for start-up work and commands.

    Raises:
        DatabaseRefused: the server cannot be reached or refuses the login.
    """
    try:
        connection = await asyncpg.connect(
            **arguments,
            timeout=connect_timeout_s,
            command_timeout=command_timeout_s,
            server_settings=session_settings(command_timeout_s),
        )
        try:
            await register_codecs(connection)
        except BaseException:  # also where who asked has gone: nobody else knows of it
            connection.terminate()
            raise
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise DatabaseRefused(f"PostgreSQL cannot be reached: {reason}") from error
    return connection


class PoolPolicy(Struct, frozen=True, kw_only=True):
    """What a pool takes for too much: callers that wait for a connection, and seconds that a good use takes."""

    waiting_max: int = 64
    slow_read_s: float = 1.0
    slow_write_s: float = 5.0


class _Use:
    """One use of a connection: since when, in monotonic seconds, and of which; None before it is had."""

    __slots__ = ("began_s", "connection")

    def __init__(self) -> None:
        self.connection: Any = None
        self.began_s = math.inf


class Pool:
    """A bounded pool of prepared connections, behind its server's breaker. Everything that waits is bounded.

    This is the one place where PostgreSQL's failures are counted. Those are: it cannot be reached, a connection broke,
    or a use took longer than is good, whatever ended it; that one counts only until a ping is answered. A cancellation
    and an error of the statement's own are none.
    """

    def __init__(
        self,
        acquire_timeout_s: float,
        limit: int,
        breaker: Breaker,
        policy: PoolPolicy,
        clock: Clock,
        room: Room | None,
        meters: PoolMeters | None,
    ) -> None:
        self._pool: Any = None
        self._acquire_timeout_s = acquire_timeout_s
        self._limit = limit
        self._breaker = breaker
        self._policy = policy
        self._clock = clock
        self._room = room
        self._retry = Retry(Budget(), clock, asyncio.sleep, random.random)
        self._counts = Counts(meters)
        self._callers = 0
        self._background: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls,
        arguments: dict[str, Any],
        size: PoolSize,
        *,
        acquire_timeout_s: float,
        connect_timeout_s: float,
        command_timeout_s: float,
        idle_lifetime_s: float,
        breaker: Breaker | None = None,
        policy: PoolPolicy | None = None,
        room: Room | None = None,
        meters: PoolMeters | None = None,
    ) -> Pool:
        """Open the pool with its minimum of connections established.

        Without a `breaker` nothing is ever refused for what happened before, without a `room` nothing for a disk that
        is about to be full. `meters` count every use.

        Raises:
            DatabaseRefused: the server cannot be reached.
        """
        clock = SystemClock()
        breaker = breaker or Breaker("postgresql", clock, failures=sys.maxsize, hold_s=0.0)
        opened = cls(acquire_timeout_s, size.maximum, breaker, policy or PoolPolicy(), clock, room, meters)
        try:
            opened._pool = await asyncpg.create_pool(
                **arguments,
                min_size=size.minimum,
                max_size=size.maximum,
                max_queries=2**31,  # reconnecting by count would only throw prepared statements away
                max_inactive_connection_lifetime=idle_lifetime_s,
                max_cached_statement_lifetime=0,
                timeout=connect_timeout_s,
                command_timeout=command_timeout_s,
                server_settings=session_settings(command_timeout_s),
                init=opened._connected,
                reset=keep_session,
            )
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseRefused(f"PostgreSQL cannot be reached: {error}") from error
        breaker.listen(opened._changed)
        return opened

    @asynccontextmanager
    async def connection(self, purpose: Purpose = "read") -> AsyncIterator[Any]:
        """A connection, with driver errors translated.

        Raises:
            Overloaded: too many wait for one already, or none was free in time.
            StoreUnavailable: the server is away.
            StoreFull: the disk has no room for a write.
        """
        async with self._use(purpose) as use:
            try:
                await self._retry.run(lambda: self._take(use), _broken, until_s=self._until_s())
            except _UNREACHABLE as error:
                reason = f"PostgreSQL cannot be reached now ({type(error).__name__}); nothing was begun"
                raise StoreUnavailable(reason, begun=False) from error
            yield use.connection

    async def fetch(self, statement: str, *arguments: Any, purpose: Purpose = "read") -> list[Any]:
        """The rows of a statement that only reads: tried again on another connection where one breaks.

        Raises:
            Overloaded: as `connection`.
            StoreUnavailable: as `connection`.
        """
        async with self._use(purpose) as use:

            async def read() -> list[Any]:
                if use.connection is not None:
                    self._give_back(use)
                await self._take(use)
                rows: list[Any] = await use.connection.fetch(statement, *arguments)
                return rows

            return await self._retry.run(read, _broken, until_s=self._until_s())

    def require_room(self) -> None:
        """Raise at once what `connection` would raise at once: for callers with work to do before they need one.

        Raises:
            Overloaded: too many wait for one already.
            StoreUnavailable: the breaker is open.
        """
        if self._callers >= self._limit + self._policy.waiting_max:
            self._counts.refused += 1
            raise Overloaded("too many requests wait for a database connection; nothing was begun", begun=False)
        if self._breaker.state in {"open", "isolated"}:
            raise self._not_asked()

    @asynccontextmanager
    async def ping(self) -> AsyncIterator[Any]:
        """A connection for one cheap question from the background, which is asked whatever the breaker says.

        Raises:
            DeadlineExceeded: it was not answered within `PING_S`.
            StoreUnavailable: the server is away.
        """
        try:
            async with translated(), asyncio.timeout(PING_S):
                connection = await self._pool.acquire()
                try:
                    yield connection
                finally:
                    self._run(self._pool.release(connection, timeout=PING_S))
        except (StoreUnavailable, DeadlineExceeded) as error:
            self._breaker.pinged(answered=False, reason=type(error.__cause__ or error).__name__)
            raise
        self._breaker.pinged(answered=True)

    async def validate(self) -> int:
        """Ask every idle connection for a sign of life, and close those that give none; returns how many."""
        taken: list[Any] = []
        idle = self.idle
        with contextlib.suppress(*_UNREACHABLE):
            async with asyncio.timeout(PING_S):
                while len(taken) < idle:
                    taken.append(await self._pool.acquire())  # open ones come first, and without a pause
        dead = sum(await asyncio.gather(*map(_dead, taken)))
        for connection in taken:
            await self._release(connection)
        return dead

    async def watch(self, interval_s: float) -> None:
        """Validate for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                dead = await self.validate()
                _log.debug("%s; %d dead connections were closed", self.snapshot(), dead)
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over connections failed")

    def snapshot(self) -> PoolSnapshot:
        """Counters since the start, and the state now."""
        counts, size, idle = self._counts, self.size, self.idle
        return PoolSnapshot(
            size=size,
            idle=idle,
            limit=self._limit,
            waiting=max(0, self._callers - self._limit),
            utilisation=round((size - idle) / self._limit, 4),
            created=counts.created,
            acquired=counts.acquired,
            reused=max(0, counts.acquired - counts.created),
            refused=counts.refused,
            acquire_ms_mean=round(counts.acquire_s / max(1, counts.acquired) * 1000, 4),
            acquire_ms_max=round(counts.acquire_s_max * 1000, 3),
        )

    @property
    def size(self) -> int:
        """Connections that are open."""
        return int(self._pool.get_size())

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return int(self._pool.get_idle_size())

    @property
    def retried(self) -> int:
        """Further tries of what broke, since it was opened."""
        return self._retry.retried

    @property
    def limit(self) -> int:
        """Connections at most."""
        return self._limit

    async def close(self, timeout_s: float) -> None:
        """Close every connection, waiting at most `timeout_s` for those in use."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._pool.close()
        except (TimeoutError, MemfastError):
            self._pool.terminate()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.sleep(0)  # asyncpg's own tasks of cancelled statements end in the loop's next turn

    @asynccontextmanager
    async def _use(self, purpose: Purpose) -> AsyncIterator[_Use]:
        """Admission before, translation of errors, and the word on how it went after."""
        if purpose == "write" and self._room is not None:
            self._room.require()
        ticket = self._admit()
        use = _Use()
        outcome: tuple[Outcome, str] = ("neutral", "")
        self._callers += 1
        try:
            async with translated():
                yield use
            outcome = self._judged(purpose, use, None)
            connection, use.connection = use.connection, None
            await self._release(connection)
        except BaseException as error:  # a use that was cut off after long tells of the server as well
            outcome = self._judged(purpose, use, error)
            raise
        finally:
            self._callers -= 1
            self._breaker.settle(ticket, *outcome)
            if use.connection is not None:
                self._give_back(use)

    def _judged(self, purpose: Purpose, use: _Use, error: BaseException | None) -> tuple[Outcome, str]:
        """What a use says about the server. One that was cut off after too long was slow, whoever cut it off."""
        if isinstance(error, StoreUnavailable | OutcomeUnknown):
            late = isinstance(error.__cause__, TimeoutError)
            return "slow" if late else "failure", type(error.__cause__ or error).__name__
        took_s = self._clock.monotonic() - use.began_s
        good_s = self._policy.slow_write_s if purpose == "write" else self._policy.slow_read_s
        if took_s >= good_s and not (purpose == "bulk" and error is None):
            return "slow", f"it took {took_s:.3g} s"
        return ("success" if error is None else "neutral"), ""

    def _admit(self) -> int:
        self.require_room()
        ticket = self._breaker.admit()
        if ticket is None:
            raise self._not_asked()
        return ticket

    def _not_asked(self) -> StoreUnavailable:
        wait_s = min(RETRY_AFTER_S, max(1, math.ceil(self._breaker.opens_in_s)))
        reason = f"PostgreSQL is not asked now ({self._breaker.reason}); nothing was begun"
        return StoreUnavailable(reason, retry_after_s=wait_s, begun=False)

    async def _take(self, use: _Use) -> None:
        """One try to get a connection."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                use.connection = await self._pool.acquire()
        except TimeoutError as error:
            limit_s = self._acquire_timeout_s
            if self._callers + len(self._background) <= self._limit:
                raise StoreUnavailable(f"PostgreSQL took no connection within {limit_s:g} s", begun=False) from error
            self._counts.refused += 1
            raise Overloaded(f"no database connection became free within {limit_s:g} s", begun=False) from error
        use.began_s = self._clock.monotonic()
        if self._counts.took(use.began_s - started, started, min(self._callers, self._limit)):
            took_ms = (use.began_s - started) * 1000
            _log.warning("a database connection took %.0f ms: %s", took_ms, self.snapshot())

    def _until_s(self) -> float:
        return self._clock.monotonic() + self._acquire_timeout_s

    def _give_back(self, use: _Use) -> None:
        """Release a connection that may be in trouble, without waiting: to cancel what it does may take long."""
        connection, use.connection = use.connection, None
        self._run(self._pool.release(connection, timeout=PING_S))

    async def _release(self, connection: Any) -> None:
        """Give a connection back. One that broke meanwhile is closed, and what was done on it stands all the same."""
        try:
            await self._pool.release(connection, timeout=PING_S)
        except _UNREACHABLE as error:
            _log.debug("a connection was lost: %s", error)

    async def _connected(self, connection: Any) -> None:
        self._counts.created += 1
        await register_codecs(connection)

    def _changed(self, transition: Transition) -> None:
        """It answers again: what was connected before may be dead all the same."""
        if transition.after == "closed":
            self._run(self.validate())

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a connection that could not be saved was closed


def _broken(error: Exception) -> bool:
    """Whether another connection may do better."""
    return isinstance(error, _BROKEN) and not isinstance(error, TimeoutError)


async def _dead(connection: Any) -> bool:
    """Whether a connection gives no sign of life; it is closed then."""
    try:
        async with asyncio.timeout(PING_S):
            await connection.fetchval("SELECT 1")
    except (*_UNREACHABLE, asyncpg.PostgresError):
        with contextlib.suppress(asyncpg.InterfaceError):  # closed by itself already
            connection.terminate()
        return True
    return False
