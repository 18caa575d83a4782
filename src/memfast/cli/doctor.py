"""`memfast doctor`: what a start needs, checked without starting."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from memfast import kernels
from memfast.bootstrap import available_majors, build_embedder, inspect_external, inspect_graph, inspect_shared
from memfast.cli.tables import print_table
from memfast.config import Config, Effective
from memfast.errors import CommandFailed, MemfastError

__all__ = ["doctor"]

REDIS_BYTES = 4 * 1024**3
"""What Redis should be allowed to hold, and must be bounded by: without a policy it refuses values when it is full."""

_DISK_BYTES = 1024**3
"""Free space below which a start is called doubtful: WAL alone may take most of it."""


class Finding(Struct, frozen=True):
    """One check: `state` is ok, warning or failed."""

    name: str
    state: str
    text: str


def doctor(effective: Effective, _arguments: argparse.Namespace) -> int:
    """Check everything; fails when a start would."""
    findings = list(_findings(effective.config))
    print_table(("check", "state", "detail"), [(f.name, f.state, f.text) for f in findings])
    failed = [finding.name for finding in findings if finding.state == "failed"]
    if failed:
        raise CommandFailed(f"a start would fail: {', '.join(failed)}")
    return 0


def _findings(config: Config) -> Iterator[Finding]:
    yield _compiler()
    yield _kernels()
    yield _port(config)
    yield from _postgres(config)
    if config.redis.url:
        yield _redis(config)
    if config.graph.uri:
        yield _graph(config)
    yield _checked("model", lambda: _model(config))
    yield _disk(config)


def _compiler() -> Finding:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found:
        return Finding("compiler", "ok", found)
    return Finding("compiler", "warning", "no C++ compiler: the extension cannot be built again")


def _kernels() -> Finding:
    if kernels.IMPL == "c":
        return Finding("kernels", "ok", "compiled")
    return Finding("kernels", "warning", "the compiled kernels are missing, the slow ones run; install memfast again")


def _port(config: Config) -> Finding:
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return Finding("port", "failed", f"{host}:{port}: {error.strerror}; a service may run there already")
    return Finding("port", "ok", f"{host}:{port} is free")


def _postgres(config: Config) -> Iterator[Finding]:
    if config.postgres.dsn:
        yield _checked("postgres", lambda: _external(config))
        return
    majors = ", ".join(map(str, available_majors()))
    yield (
        Finding("postgres", "ok", f"embedded, versions {majors}")
        if majors
        else Finding("postgres", "failed", "the embedded PostgreSQL is not installed; install memfast again")
    )


def _external(config: Config) -> str:
    facts = asyncio.run(inspect_external(config))
    return f"PostgreSQL {facts.server_version}, pgvector {facts.pgvector_version}, {facts.connections} connections"


def _redis(config: Config) -> Finding:
    """Never a reason not to start: the service works without it."""
    try:
        facts = asyncio.run(inspect_shared(config))
    except CommandFailed as error:
        return Finding("redis", "warning", str(error))
    told = f"Redis {facts.version}"
    wanted = []
    if facts.maxmemory_bytes is None or facts.policy is None:
        return Finding("redis", "warning", f"{told}; CONFIG is refused: see to maxmemory and its policy elsewhere")
    if facts.maxmemory_bytes < REDIS_BYTES:
        held = f"{facts.maxmemory_bytes / 1024**3:.1f} GiB" if facts.maxmemory_bytes else "no bound"
        wanted.append(f"CONFIG SET maxmemory 4gb (is {held})")
    if facts.policy != "allkeys-lru":
        wanted.append(f"CONFIG SET maxmemory-policy allkeys-lru (is {facts.policy})")
    if wanted:
        return Finding("redis", "warning", f"{told}; better: {', '.join(wanted)}")
    return Finding("redis", "ok", f"{told}, {facts.maxmemory_bytes / 1024**3:.1f} GiB, {facts.policy}")


def _graph(config: Config) -> Finding:
    """As Redis: walks are made by PostgreSQL without it."""
    try:
        facts = asyncio.run(inspect_graph(config))
    except CommandFailed as error:
        return Finding("neo4j", "warning", str(error))
    if not facts.apoc:
        return Finding("neo4j", "warning", f"{facts.version}, without APOC core: walks are plain Cypher")
    return Finding("neo4j", "ok", f"{facts.version}, with APOC core")


def _model(config: Config) -> str:
    async def load() -> str:
        embedder = build_embedder(config.embedding)
        try:
            await embedder.check()
            return f"{embedder.model}, {embedder.dimensions} dimensions"
        finally:
            await embedder.close()

    return asyncio.run(load())


def _disk(config: Config) -> Finding:
    place = Path(config.data_dir)
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Finding("disk", "failed", f"{place} is not writable; choose another with --data-dir")
    free = shutil.disk_usage(place).free
    state = "ok" if free >= _DISK_BYTES else "warning"
    return Finding("disk", state, f"{free / 1024**3:.1f} GiB free in {place}")


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", check())
    except MemfastError as error:
        return Finding(name, "failed", str(error))
