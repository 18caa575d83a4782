"""Recall and speed of the graph that serves users of many memories, beside an exact scan of the same rows.

    python -m bench.recall [--rows 60000] [--queries 1000] [--ef 64 128 200 …] [--json FILE]

The memories are sentences from the docstrings of the Python library and of all installed packages: real text, and
there without a network. The queries are other sentences of the same kind. Measured is the shard as it is served:
fresh, and again after a tenth of it was deleted or changed, half of that next to the queries (worn). A hit counts when its
score reaches the k-th of the exact answer, so that equal texts stand for each other.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import random
import re
import statistics
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import msgspec  # noqa: E402 - BLAS reads its number of threads when it is loaded
import numpy as np  # noqa: E402 - the same

from bench.harness.report import Figure, Report, finish, options  # noqa: E402 - the same
from memfast.embedding.wordllama import WordLlamaEmbedder  # noqa: E402 - the same
from memfast.index import hnsw  # noqa: E402 - the same
from memfast.index.shard import Shard, ShardIdentity  # noqa: E402 - the same
from memfast.model import Delta, Memory  # noqa: E402 - the same

__all__ = ["measure"]

K = 10
EF = hnsw.EF
RECALL_MIN = 99.0
"""Percent."""
_LETTERS = re.compile(r"[A-Za-z]{3}.*[A-Za-z]{3}")
_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def sentences() -> Iterator[str]:
    """Sentences of docstrings, file by file."""
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    for folder in sorted(folders):
        for path in sorted(Path(folder).rglob("*.py")):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    for part in re.split(r"\n\s*\n|(?<=[.!?])\s+", ast.get_docstring(node) or ""):
                        text = " ".join(part.split())
                        if 25 <= len(text) <= 400 and _LETTERS.search(text):
                            yield text


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Embed texts: float32 (n, 256)."""

    async def embed() -> np.ndarray:
        embedder = WordLlamaEmbedder()
        try:
            return np.concatenate(
                [await embedder.embed(texts[start : start + 4096]) for start in range(0, len(texts), 4096)]
            )
        finally:
            await embedder.close()

    return asyncio.run(embed())


def memory(number: int, text: str, version: int) -> Memory:
    """A memory of a text."""
    return Memory(
        id=UUID(int=number),
        user_id="u",
        text=text,
        kind="fact",
        tags=[],
        entities=[],
        importance=0.5,
        metadata=msgspec.Raw(b"{}"),
        agent_id=None,
        run_id=None,
        source=None,
        created_at=_TIME,
        updated_at=_TIME,
        expires_at=None,
        version=version,
    )


def scanned(shard: Shard) -> Shard:
    """The same shard without its graph: exact."""
    return replace(shard, graph=None)


def worn(shard: Shard, queries: np.ndarray, rng: random.Random) -> Shard:
    """Delete a twentieth and change a twentieth, half of each among the best hits of queries."""
    flat, share = scanned(shard), len(shard) // 40
    near = {row for query in queries for row in flat.search(query, 3, now_us=0).rows}
    chosen = rng.sample(sorted(near), min(len(near), 2 * share))
    chosen += rng.sample(sorted(set(range(len(shard))) - near), 4 * share - len(chosen))
    rng.shuffle(chosen)
    ids = [UUID(bytes=shard.id_bytes(row)) for row in chosen]
    version = shard.version + 1
    advanced = shard.apply(
        Delta(
            since=shard.version,
            version=version,
            purged_to=0,
            memories=[memory(target.int, "changed", version) for target in ids[: 2 * share]],
            vectors=shard.base.vectors[rng.choices(range(len(shard.base)), k=2 * share)],
            deleted=[(target, version) for target in ids[2 * share :]],
        )
    )
    assert advanced is not None
    return advanced


def recall(shard: Shard, queries: np.ndarray) -> float:
    """The share of hits whose score reaches the exact k-th."""
    flat, reached = scanned(shard), 0
    for query in queries:
        floor = flat.search(query, K, now_us=0).scores[-1]
        scores = shard.search(query, K, now_us=0).scores
        assert len(scores) == K
        reached += sum(score >= floor for score in scores)
    return reached / (K * len(queries))


def search_us(shard: Shard, queries: np.ndarray) -> float:
    """The median time of a search."""
    times = []
    for query in queries:
        start = time.perf_counter()
        shard.search(query, K, now_us=0)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure(*, rows: int = 60_000, queries: int = 1000, efs: Sequence[int] = (hnsw.EF,)) -> Report:
    """Build, search, wear out, search again; every ef has the same rows."""
    texts = list(dict.fromkeys(sentences()))
    random.Random(1).shuffle(texts)
    if len(texts) < rows + queries:
        raise SystemExit(f"there are {len(texts)} sentences here; ask for {rows + queries - len(texts)} fewer rows")
    vectors = embedded(texts[: rows + queries])
    asked, vectors = vectors[rows:], vectors[:rows].copy()
    identity = ShardIdentity(UUID(int=1), UUID(int=2), 1, vectors.shape[1])
    memories = [memory(number, text, number + 1) for number, text in enumerate(texts[:rows])]
    report = Report([])
    for ef in efs:
        hnsw.EF = ef
        start = time.perf_counter()
        shard = Shard.build(memories, vectors, identity=identity, version=rows).rebuilt(flat_limit=0)
        build_s = time.perf_counter() - start
        gate = RECALL_MIN if ef == EF else None
        report.figures.append(Figure(f"ef {ef}: build", build_s * 1e6 / rows, "us a row"))
        for state, each in (("fresh", shard), ("worn", worn(shard, asked, random.Random(2)))):
            report.figures.append(
                Figure(f"ef {ef}, {state}: recall@{K} in %", 100 * recall(each, asked), at_least=gate)
            )
            report.figures.append(Figure(f"ef {ef}, {state}: search", search_us(each, asked), "us"))
            report.figures.append(Figure(f"ef {ef}, {state}: exact scan", search_us(scanned(each), asked), "us"))
    return report


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--ef", type=int, nargs="+", default=[EF])


if __name__ == "__main__":
    chosen = options(__doc__ or "", _add, timed=False)
    sys.exit(finish(measure(rows=chosen.rows, queries=chosen.queries, efs=chosen.ef), chosen.json))
