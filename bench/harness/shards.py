"""A process that holds warm shards and nothing else: no service, no database.

    python -m bench.harness.shards <directory> <scopes> [--int8] [--planted]

It does what it is told by lines on its standard input and answers each with one line of JSON:

    build   make every scope's shard from made-up memories; save them, with a question and its answer for each
    pick    map every saved shard, its checksums verified, and ask it its question; the answers must be right
    read    read the bytes of all files one after another, and do nothing with them

--planted keeps each scope's vectors twice and maps every shard four times, to show that gates catch it.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import msgspec
import numpy as np
import psutil
from msgspec import Raw

from bench.harness.corpus import DIMENSIONS, sentences, unit_vectors
from memfast.index.pool import ShardPool
from memfast.index.shard import Hits
from memfast.model import Memory, Scope, Snapshot

__all__ = ["ROWS", "Holder", "empty_pool", "made_up", "scope_of"]

ROWS = 1000
"""Memories of a scope."""

LIMIT = 10
_CAPACITY_BYTES = 1 << 40
_CHUNK_BYTES = 1 << 20
_QUESTIONS = "questions"
_FIRST_ID = 0x0198_0000_0000_7000_8000 << 48
_LIFE = UUID(int=1)
_NOW_US = 1_800_000_000_000_000


class Holder:
    """Such a process, started on entry.

    Args:
        directory: where the saved shards are.
        scopes: how many there are.
        int8: whether shards have int8 images.
        planted: whether it wastes memory and time.
    """

    def __init__(self, directory: Path, scopes: int, *, int8: bool = False, planted: bool = False) -> None:
        words = [str(directory), str(scopes), *["--int8"] * int8, *["--planted"] * planted]
        self._command = [sys.executable, "-m", "bench.harness.shards", *words]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it has imported everything."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answer()
        return self

    def __exit__(self, *_details: object) -> None:
        """End it."""
        assert self._process is not None
        self._process.communicate()

    def pss_bytes(self) -> int:
        """What it has in memory; of pages that it shares with n processes, the n-th part."""
        assert self._process is not None
        return int(psutil.Process(self._process.pid).memory_full_info().pss)

    def tell(self, word: str) -> dict[str, float]:
        """Let it do one thing and wait for its answer.

        Raises:
            RuntimeError: it ended instead.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that holds shards ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=dict[str, float])


def scope_of(number: int) -> Scope:
    """A scope by its number."""
    return Scope(UUID(int=number + 1), "default", f"user-{number}")


def made_up(rng: np.random.Generator, number: int, rows: int = ROWS) -> Snapshot:
    """A scope's memories as the service stores those that are made of a text alone."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    memories = [
        Memory(
            id=UUID(int=_FIRST_ID + (number << 32) + row),
            user_id=f"user-{number}",
            text=text,
            kind="fact",
            tags=[],
            entities=[],
            importance=0.5,
            metadata=Raw(b"{}"),
            agent_id=None,
            run_id=None,
            source=None,
            created_at=began + timedelta(seconds=row, microseconds=number),
            updated_at=began + timedelta(seconds=row, microseconds=number),
            expires_at=None,
            version=row + 1,
        )
        for row, text in enumerate(sentences(rng, rows))
    ]
    return Snapshot(memories=memories, vectors=unit_vectors(rng, rows), version=rows, purged_to=0)


def empty_pool(directory: Path, *, int8: bool) -> ShardPool:
    """A pool that never lets a shard go by itself."""
    return ShardPool(
        _CAPACITY_BYTES,
        snapshots=directory,
        life=lambda: _LIFE,
        generation=1,
        dimensions=DIMENSIONS,
        admit_window_s=1.0,
        int8=int8,
    )


def _build(pool: ShardPool, scopes: int, directory: Path) -> dict[str, float]:
    """Make and save the shards; returns what their content takes: vectors and fragments, nothing else."""
    rng = np.random.default_rng(256)
    answers: list[tuple[bytes, list[UUID]]] = []
    content_bytes = 0
    for number in range(scopes):
        snapshot = made_up(rng, number)
        shard = pool.build(scope_of(number), snapshot)
        pool.put(scope_of(number).id, shard)
        pool.save(scope_of(number), shard)
        content_bytes += snapshot.vectors.nbytes + sum(len(msgspec.json.encode(each)) - 1 for each in snapshot.memories)
        question = unit_vectors(rng, 1)[0]
        best = np.argsort(-(snapshot.vectors @ question))[:LIMIT]
        answers.append((question.tobytes(), [snapshot.memories[row].id for row in best.tolist()]))
    (directory / _QUESTIONS).write_bytes(msgspec.msgpack.encode(answers))
    return {"content_bytes": content_bytes}


def _questions(directory: Path) -> list[tuple[bytes, list[UUID]]]:
    return msgspec.msgpack.decode((directory / _QUESTIONS).read_bytes(), type=list[tuple[bytes, list[UUID]]])


def _pick(pool: ShardPool, questions: list[tuple[bytes, list[UUID]]]) -> dict[str, float]:
    """Map and ask every shard; the answers are looked at after the clock has stopped.

    Raises:
        RuntimeError: a snapshot is not good, or an answer is wrong.
    """
    hits: list[Hits] = []
    began, cpu_began = time.perf_counter(), time.process_time()
    for number, (question, _) in enumerate(questions):
        shard: Any = pool.restore(scope_of(number))
        if shard is None:
            raise RuntimeError(f"the snapshot of {scope_of(number)} is not good")
        pool.put(scope_of(number).id, shard)
        hits.append(shard.search(np.frombuffer(question, np.float32), LIMIT, now_us=_NOW_US))
    taken = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}
    for found, (_, answer) in zip(hits, questions, strict=True):
        opening = b'{"id":"%b"' % str(answer[0]).encode()
        if found.ids != answer or not bytes(found.fragments[0]).startswith(opening):
            raise RuntimeError(f"the shard of {found.shard.identity.scope_id} gives a wrong answer")
    return taken


def _read(directory: Path) -> dict[str, float]:
    """Read every file into the same buffer."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    size = 0
    began, cpu_began = time.perf_counter(), time.process_time()
    for path in directory.glob("*.shard"):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
    taken = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}
    return {**taken, "bytes": size}


def _waste(pool: ShardPool, scopes: int) -> list[Any]:
    """The planted fault: what is held once is held again, and mapped three times more."""
    shards: Any = [pool.get(scope_of(number).id) for number in range(scopes)]
    for number, _ in itertools.product(range(scopes), range(3)):
        pool.restore(scope_of(number))
    return [shard.base.vectors.copy() for shard in shards]


def main(directory: Path, scopes: int, *, int8: bool, planted: bool) -> None:
    """Serve the lines of standard input."""
    pool = empty_pool(directory, int8=int8)
    # What is touched once and stays, like the vectors' generator and the encoder, is not the shards'.
    pool.build(scope_of(0), made_up(np.random.default_rng(0), 0))
    print("{}", flush=True)
    kept: list[Any] = []
    for line in sys.stdin:
        began, cpu_began = time.perf_counter(), time.process_time()
        match line.strip():
            case "build":
                answer = _build(pool, scopes, directory)
            case "pick":
                answer = _pick(pool, _questions(directory))
            case "read":
                answer = _read(directory)
            case word:
                raise ValueError(f"{word!r} is none of build, pick, read")
        if planted and line.strip() != "read":
            kept += _waste(pool, scopes)
            answer["seconds"] = time.perf_counter() - began
            answer["cpu_s"] = time.process_time() - cpu_began
        gc.collect()
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("scopes", type=int)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--planted", action="store_true")
    chosen = parser.parse_args()
    main(chosen.directory, chosen.scopes, int8=chosen.int8, planted=chosen.planted)
