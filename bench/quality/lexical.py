"""Search by words alone, in the process: LoCoMo, Cranfield and Vaswani.

    python -m bench.quality.lexical [--locomo FILE] [--ir DIR] [--json FILE]

LoCoMo: one shard a conversation, one memory a turn, made as `bench.quality` makes them; recall and nDCG over all
questions. Cranfield (1,400 abstracts with their titles) and Vaswani (11,429), as TREC files in DIR/cranfield and
DIR/vaswani: one shard each, mean average precision of the first 1,000 hits. The gates are what BM25 with the same
parameters reaches elsewhere.
"""

from __future__ import annotations

import argparse
import gzip
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
from msgspec import Raw

from bench.harness.report import Figure, Report, finish, options
from bench.quality.locomo import read
from bench.quality.measures import DEPTHS, Score, average, score
from memfast.index.shard import Shard, ShardIdentity
from memfast.model import Memory
from memfast.search.words import words_of

__all__ = ["measure"]

GATES = {"LoCoMo R@10": 66.9, "LoCoMo nDCG@10": 53.0, "Cranfield MAP": 30.0, "Vaswani MAP": 29.0}
"""The least, in percent, of the five development conversations and of the whole collections."""

_DEPTH = 1000
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_IDENTITY = ShardIdentity(UUID(int=1), UUID(int=2), 1, 1)
_WORDS = words_of("english")


def measure(locomo: Path | None, ir: Path | None) -> Report:
    """Ask every question of the collections that are there."""
    figures: dict[str, float] = {}
    if locomo is not None:
        figures |= {f"LoCoMo {name}": value for name, value in average(_ask_conversations(locomo)).items()}
    if ir is not None:
        figures["Cranfield MAP"] = 100 * _mean_precision(*_cranfield(ir / "cranfield"))
        figures["Vaswani MAP"] = 100 * _mean_precision(*_vaswani(ir / "vaswani"))
    return Report(
        [Figure(name, value, "%", GATES.get(name), None, exact=True) for name, value in figures.items()], figures
    )


def _shard(texts: Sequence[str], times: Sequence[datetime]) -> Shard:
    """A shard of memories whose ids rise as the texts come; the vectors say nothing."""
    memories = [
        Memory(
            id=UUID(int=number),
            user_id="user",
            text=text,
            kind="fact",
            tags=[],
            entities=[],
            importance=0.5,
            metadata=Raw(b"{}"),
            agent_id=None,
            run_id=None,
            source=None,
            created_at=time,
            updated_at=time,
            expires_at=None,
            version=1,
        )
        for number, (text, time) in enumerate(zip(texts, times, strict=True))
    ]
    return Shard.build(memories, np.ones((len(texts), 1), np.float32), identity=_IDENTITY, version=1)


def _found(shard: Shard, question: str, depth: int) -> list[int]:
    rows, _ = shard.lexical(_WORDS.of_query(question), depth, now_us=0)
    return rows.tolist()


def _ask_conversations(path: Path) -> list[Score]:
    scores = []
    for conversation in read(path):
        turns = conversation.turns
        shard = _shard([turn.text for turn in turns], [turn.said_at for turn in turns])
        for question in conversation.questions:
            ranked = [turns[row].id for row in _found(shard, question.text, max(DEPTHS))]
            scores.append(score(question.category, ranked, question.evidence))
    return scores


def _mean_precision(texts: dict[str, str], topics: dict[str, str], judged: dict[str, set[str]]) -> float:
    """Mean average precision over the topics that have relevant documents."""
    names = list(texts)
    shard = _shard(list(texts.values()), [_BEGAN] * len(texts))
    precisions = []
    for topic, question in topics.items():
        if topic in judged:
            hits = [names[row] in judged[topic] for row in _found(shard, question, _DEPTH)]
            found = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precisions.append(float(found[hits].sum()) / len(judged[topic]))
    return statistics.fmean(precisions)


def _cranfield(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    document = re.compile(r"<docno>(.*?)</docno>\s*<title>(.*?)</title>.*?<text>(.*?)</text>", re.DOTALL)
    topic = re.compile(r"<title>(.*?)</title>", re.DOTALL)
    texts = {
        name: f"{title} {text}" for name, title, text in document.findall((folder / "cran.all.1400.xml").read_text())
    }
    topics = topic.findall((folder / "cran.qry.xml").read_text())  # judged by their place, not by their number
    return texts, {str(place): text for place, text in enumerate(topics, 1)}, _judged(folder / "cranqrel.trec.txt")


def _vaswani(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    document = re.compile(r"<DOCNO>(.*?)</DOCNO>(.*?)</DOC>", re.DOTALL)
    topic = re.compile(r"<num>(.*?)</num>\s*<title>(.*?)</title>", re.DOTALL)
    texts = dict(document.findall(gzip.decompress((folder / "doc-text.trec.gz").read_bytes()).decode()))
    topics = dict(topic.findall((folder / "query-text.trec").read_text()))
    return texts, topics, _judged(folder / "qrels")


def _judged(path: Path) -> dict[str, set[str]]:
    """The documents that are relevant to each topic."""
    relevant = defaultdict(set)
    for line in path.read_text().splitlines():
        topic, _, document, grade = line.split()
        if int(grade) > 0:
            relevant[topic].add(document)
    return relevant


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--locomo", type=Path, help="LoCoMo's JSON file")
    parser.add_argument("--ir", type=Path, help="the folder that holds cranfield and vaswani")


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, _arguments, timed=False)
    return finish(measure(chosen.locomo, chosen.ir), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
