"""Forgetting without a service, rewriting a database, and looking for what is left of a user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from memfast.bootstrap.database import open_pool
from memfast.bootstrap.graph import open_graph
from memfast.bootstrap.ground import Reporter, attached, database_address
from memfast.bootstrap.relay import patient
from memfast.bootstrap.shared import search_shared
from memfast.bootstrap.stores import build_shards, build_store
from memfast.config import Config
from memfast.errors import MemfastError
from memfast.model import ForgetReceipt, Scope, derive_scope_id
from memfast.resilience.clock import SystemClock
from memfast.store.database import Prepared, require_prepared
from memfast.store.leftovers import (
    Needles,
    look_into_rows,
    look_into_statistics,
    needles_of,
    prepare_files,
    search_file,
)
from memfast.store.pool import PoolSize, connect
from memfast.store.rewrite import rewrite_database

__all__ = ["Finding", "forget_alone", "look_for_leftovers", "rewrite"]

_LONG_S = 7 * 24 * 3600.0
"""The time of one statement of these commands: a table is rewritten in one."""

_SHOWN_PLACES = 5
_TABLES, _LOG, _OTHERS = "table and index files", "write-ahead log", "other files of PostgreSQL"
_UNTOLD_SCOPE = frozenset({"scopes", "idempotency", "outbox", "pg_statistic"})
"""Tables that keep the hash of the name: the nameless row, samples of it, the answer to the request that forgot it, the
order to erase what is copied of it."""


class Finding(Struct, frozen=True):
    """What was found in one layer."""

    layer: str
    state: Literal["clean", "found", "not looked"]
    detail: str


def forget_alone(config: Config, namespace: str, user_id: str, report: Reporter) -> ForgetReceipt | None:
    """Forget a user while no service runs over the data directory; None where there was none.

    Raises:
        StartError: a service runs, or the database cannot be reached or is not prepared.
    """

    async def work(address: dict[str, Any]) -> ForgetReceipt | None:
        prepared = await _prepared(config, address)
        pool = await open_pool(config, address, PoolSize(1, 1))
        try:
            scope = _scope(prepared, namespace, user_id)
            files = await asyncio.to_thread(build_shards(config, prepared, lambda: prepared.lineage).unsave, scope.id)
            copies: dict[str, int | None] = {"answers": 0, "memories": 0, "questions": 0, "snapshots": files}
            copies |= {"redis": None, "graph": None}
            return await build_store(config, pool, prepared).forget(scope, now=SystemClock().now(), copies=copies)
        finally:
            await pool.close(5.0)

    with database_address(config, report) as address:
        return asyncio.run(work(address))


def rewrite(config: Config, report: Reporter) -> None:
    """Rewrite all tables and indexes, also of a running service, and the log of an embedded database.

    Raises:
        StartError: the database cannot be reached, or transactions of before go on.
    """

    async def work(address: dict[str, Any]) -> None:
        connection, observer = await _connect(config, address), await _connect(config, address)
        try:
            await rewrite_database(connection, observer, report, log_too=not config.postgres.dsn)
        finally:
            await connection.close()
            await observer.close()

    with attached(config, report) as address:
        asyncio.run(work(address))


def look_for_leftovers(
    config: Config, namespace: str, user_id: str, texts: Sequence[str], places: Sequence[Path], report: Reporter
) -> list[Finding]:
    """Look into the database, the data directory, Redis, the graph and other places for what is left of a user.

    Raises:
        StartError: the database cannot be reached, or is not prepared.
    """

    async def work(address: dict[str, Any]) -> list[Finding]:
        scope = _scope(await _prepared(config, address), namespace, user_id)
        needles = needles_of(scope, texts)
        connection = await _connect(config, address)
        try:
            report("looking into tables")
            findings = [
                _told("rows of tables", await look_into_rows(connection, scope, texts)),
                _told("planner statistics", await look_into_statistics(connection, scope, texts)),
            ]
            relations = {} if config.postgres.dsn else await prepare_files(connection)
        finally:
            await connection.close()
        report("looking into files")
        findings += await asyncio.to_thread(lambda: list(_files(config, scope, needles, relations)))
        for place in places:
            findings.append(await asyncio.to_thread(_place, place, needles))
        findings += [await _redis(config, scope, needles), await _graph(config, scope)]
        return findings

    with attached(config, report) as address:
        return asyncio.run(work(address))


async def _prepared(config: Config, address: dict[str, Any]) -> Prepared:
    connection = await _connect(config, address)
    try:
        return await require_prepared(connection)
    finally:
        await connection.close()


async def _connect(config: Config, address: dict[str, Any]) -> Any:
    timeout_s = config.postgres.connect_timeout_s
    return await connect(address, connect_timeout_s=timeout_s, command_timeout_s=_LONG_S)


def _scope(prepared: Prepared, namespace: str, user_id: str) -> Scope:
    return Scope(derive_scope_id(prepared.secret, namespace, user_id), namespace, user_id)


def _told(layer: str, found: Sequence[str], unread: Sequence[str] = (), clean: str = "") -> Finding:
    if found:
        more = len(found) - _SHOWN_PLACES
        return Finding(layer, "found", "; ".join(found[:_SHOWN_PLACES]) + (f"; {more} more" if more > 0 else ""))
    if unread:
        return Finding(layer, "not looked", f"{len(unread)} files cannot be read, e.g. {unread[0]}")
    return Finding(layer, "clean", clean)


def _files(config: Config, scope: Scope, needles: Needles, relations: dict[str, tuple[str, str]]) -> Iterator[Finding]:
    """One finding a kind of file below the data directory."""
    data_dir = Path(config.data_dir)
    layers: dict[str, list[Path]] = {name: [] for name in (_TABLES, _LOG, _OTHERS, "snapshots", "logs", "other files")}
    for path in _regular_files(data_dir):
        layers[_layer(path.relative_to(data_dir).parts)].append(path)
    if config.postgres.dsn:
        reason = "the server is not the embedded one: its files and its log cannot be read from here"
        yield Finding(_TABLES, "not looked", reason)
        yield Finding(_LOG, "not looked", reason)
    pgdata = data_dir / "postgres"
    for layer, files in layers.items():
        if config.postgres.dsn and layer in {_TABLES, _LOG, _OTHERS}:
            continue
        found, unread = [], []
        for path in files:
            name, owner = relations.get(_relation(path, pgdata), ("", ""))
            wanted = [*needles.texts, *needles.names]
            if layer != _LOG and owner not in _UNTOLD_SCOPE:
                wanted += needles.scope
            state = search_file(path, wanted)
            place = f"{name} ({path.relative_to(data_dir)})" if name else str(path.relative_to(data_dir))
            if state or scope.id.hex in path.name:
                found.append(place)
            elif state is None:
                unread.append(place)
        yield _told(layer, found, unread, f"{len(files)} files")


def _layer(parts: tuple[str, ...]) -> str:
    match parts:
        case ("postgres", "pg_wal", *_):
            return _LOG
        case ("postgres", "base" | "global", *_):
            return _TABLES
        case ("postgres" | "runtime", *_):
            return _OTHERS
        case ("snapshots", *_):
            return "snapshots"
        case ("log", *_):
            return "logs"
    return "other files"


def _relation(path: Path, pgdata: Path) -> str:
    """The path by which PostgreSQL knows a file: without the number of its segment or the name of its fork."""
    if not path.is_relative_to(pgdata):
        return ""
    inside = path.relative_to(pgdata)
    return str(inside.with_name(inside.name.partition(".")[0].partition("_")[0]))


def _regular_files(place: Path) -> list[Path]:
    paths = [place] if place.is_file() else place.rglob("*")
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def _place(place: Path, needles: Needles) -> Finding:
    """A file or a directory that the caller names: backups, logs, dumps."""
    if not place.exists():
        return Finding(str(place), "not looked", "it does not exist")
    files = _regular_files(place)
    states = {path: search_file(path, [*needles.texts, *needles.names, *needles.scope]) for path in files}
    found = [str(path) for path, state in states.items() if state]
    unread = [str(path) for path, state in states.items() if state is None]
    return _told(str(place), found, unread, f"{len(files)} files")


async def _redis(config: Config, scope: Scope, needles: Needles) -> Finding:
    if not config.redis.url:
        return Finding("Redis", "clean", "none is configured")
    try:
        found, keys = await search_shared(config, scope.id.hex, [*needles.texts, *needles.scope])
    except MemfastError as error:
        return Finding("Redis", "not looked", str(error))
    return _told("Redis", [f"{found} of {keys} keys"] if found else [], clean=f"{keys} keys")


async def _graph(config: Config, scope: Scope) -> Finding:
    async with open_graph(patient(config), SystemClock()) as layer:
        if layer is None:
            return Finding("graph", "clean", "none is configured")
        try:
            memories, links = await layer.projection.counts(scope.id)
        except MemfastError as error:
            return Finding("graph", "not looked", str(error))
        return _told("graph", [f"{memories} memories and {links} links"] if memories or links else [])
