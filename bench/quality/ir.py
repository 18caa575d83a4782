"""Mean average precision on test collections of retrieval research, over the HTTP API.

    python -m bench.quality.ir <folder> [--url URL] [--json FILE]

The folder holds `cranfield/` (1,400 abstracts, 225 questions) and `vaswani/` (11,429 abstracts, 93 questions). Nothing
is tuned on them: they tell whether a leg is right by itself, and whether what was tuned elsewhere holds.
"""

from __future__ import annotations

import argparse
import gzip
import re
import secrets
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness.load import Connection, call, closed_loop, connections, run
from bench.harness.report import Figure, Report, finish, options, print_table
from bench.quality.measures import average_precision, paired_bootstrap
from bench.quality.served import forget, served, store

__all__ = ["measure"]

MODES = ("vector", "lexical", "hybrid")
LEXICAL_MAP = {"cranfield": 0.30, "vaswani": 0.29}
"""The least mean average precision of the lexical leg; Terrier reaches .2992 on Vaswani."""
_DEPTH = 1000
_CLIENTS = 4
_TOPIC = re.compile(r"<num>\s*(\d+)\s*</num>\s*<title>(.*?)</title>", re.DOTALL)


@dataclass(frozen=True)
class Collection:
    """Documents by number, questions by number, and which documents are relevant to which."""

    name: str
    documents: dict[str, str]
    questions: dict[str, str]
    relevant: dict[str, set[str]]


def read(folder: Path) -> list[Collection]:
    """The collections that the folder has."""
    readers = {"cranfield": _cranfield, "vaswani": _vaswani}
    return [reader(folder / name) for name, reader in readers.items() if (folder / name).exists()]


def _cranfield(folder: Path) -> Collection:
    """The judgements number the questions from 1 in the order of the file, whatever number they have there."""
    text = (folder / "cran.all.1400.xml").read_text()
    documents = {}
    for document in text.split("</doc>")[:-1]:
        fields = (_field(document, name) for name in ("title", "author", "bib", "text"))
        documents[_field(document, "docno")] = " ".join(filter(None, fields))
    topics = _TOPIC.findall((folder / "cran.qry.xml").read_text())
    questions = {str(number): _line(title) for number, (_, title) in enumerate(topics, 1)}
    return Collection("cranfield", documents, questions, _relevant(folder / "cranqrel.trec.txt"))


def _vaswani(folder: Path) -> Collection:
    text = gzip.decompress((folder / "doc-text.trec.gz").read_bytes()).decode()
    documents = {}
    for document in text.split("</DOC>")[:-1]:
        number, _, body = document.partition("</DOCNO>")
        documents[number.rpartition("<DOCNO>")[2].strip()] = _line(body)
    topics = _TOPIC.findall((folder / "query-text.trec").read_text())
    questions = {number: _line(title).lower() for number, title in topics}
    return Collection("vaswani", documents, questions, _relevant(folder / "qrels"))


def _field(document: str, name: str) -> str:
    return _line(document.partition(f"<{name}>")[2].partition(f"</{name}>")[0])


def _line(text: str) -> str:
    return " ".join(text.split())


def _relevant(path: Path) -> dict[str, set[str]]:
    judged = defaultdict(set)
    for line in path.read_text().splitlines():
        question, _, document, grade = line.split()
        if int(grade) > 0:
            judged[question].add(document)
    return judged


def measure(folder: Path, *, url: str | None = None) -> Report:
    """Store each collection, ask its questions in every mode, judge the answers."""
    figures, details = [], {}
    with served(url) as address:
        for collection in read(folder):
            precisions = run(_ask_all(address, collection))
            means = {mode: sum(values) / len(values) for mode, values in precisions.items()}
            print(f"{collection.name}: {len(collection.documents):,} documents, {len(precisions['vector'])} questions")
            rows = [[mode, f"{mean:.4f}", _beyond(precisions, mode)] for mode, mean in means.items()]
            print_table(("", "MAP", "beyond lexical, with its 95 % interval"), rows)
            for mode, mean in means.items():
                gate = LEXICAL_MAP[collection.name] if mode == "lexical" else None
                figures.append(Figure(f"{collection.name} {mode}: MAP", mean, at_least=gate))
            details[collection.name] = means
    return Report(figures, details)


def _beyond(precisions: dict[str, list[float]], mode: str) -> str:
    return "{:+.3f} ({:+.3f} .. {:+.3f})".format(*paired_bootstrap(precisions[mode], precisions["lexical"]))


async def _ask_all(address: tuple[str, int], collection: Collection) -> dict[str, list[float]]:
    user_id = f"{collection.name}-{secrets.token_hex(4)}"
    precisions: dict[str, list[float]] = {mode: [] for mode in MODES}
    judged = [number for number in collection.questions if collection.relevant.get(number)]
    async with connections(address, _CLIENTS) as opened:
        try:
            memories = [{"text": text or ".", "metadata": {"n": n}} for n, text in collection.documents.items()]
            await store(opened[0], user_id, memories)
            await call(opened[0], "POST", "/v1/warm", {"users": [user_id], "queries": 0})
            for mode in MODES:
                found: dict[str, float] = {}
                clients = [partial(_ask, each, user_id, mode, collection, found) for each in opened]
                await closed_loop(judged, clients)
                precisions[mode] = [found[number] for number in judged]
        finally:
            await forget(opened[0], user_id)
    return precisions


async def _ask(
    connection: Connection, user_id: str, mode: str, collection: Collection, found: dict[str, float], number: str
) -> None:
    body = {"user_id": user_id, "query": collection.questions[number], "limit": _DEPTH, "mode": mode}
    answer: Any = await call(connection, "POST", "/v1/search", body)
    ranked = [hit["metadata"]["n"] for hit in answer["results"]]
    found[number] = average_precision(ranked, collection.relevant[number])


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="the folder of the collections")
    parser.add_argument("--url", help="a running service; the user of the run is forgotten at its end")


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, _arguments, timed=False)
    return finish(measure(chosen.data, url=chosen.url), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
