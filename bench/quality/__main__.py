"""Retrieval quality on LoCoMo, over the HTTP API.

    python -m bench.quality <locomo.json> [--url URL] [--mode vector] [--expect-dense] [--json FILE]

One user a conversation, one memory a turn, one search a question; found is what an annotator named as evidence. No
language model anywhere. Without --url a service is started for the run.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.harness.load import Connection, closed_loop, connections, encode, run
from bench.harness.report import Figure, Report, finish, options, print_table
from bench.quality.locomo import CATEGORIES, Conversation, Question, read
from bench.quality.measures import DEPTHS, Score, average, macro_ndcg, score
from bench.quality.served import forget, served, store

__all__ = ["measure"]

DENSE_RECALL_AT_10 = (39.1, 40.1)
"""What vectors of WordLlama alone reach on the five development conversations, in percent."""

_CLIENTS = 4


def measure(path: Path, *, url: str | None = None, mode: str = "vector", expect_dense: bool = False) -> Report:
    """Store the conversations, ask the questions, judge the answers."""
    conversations = read(path)
    with served(url) as address:
        scores = run(_ask_all(address, conversations, mode))
    means = average(scores) | {"macro nDCG@10": macro_ndcg(scores)}
    by_category = {
        CATEGORIES[category]: [one for one in scores if one.category == category] for category in sorted(CATEGORIES)
    }
    rows = [(name, *_cells(ones)) for name, ones in by_category.items() if ones]
    print(f"LoCoMo, {len(conversations)} conversations, mode {mode}, percent")
    print_table(("", "questions", *average(scores)), [*rows, ("all", *_cells(scores))])
    low, high = DENSE_RECALL_AT_10 if expect_dense else (None, None)
    figures = [
        Figure(f"LoCoMo {name}", value, "%", *((low, high) if name == "R@10" else ()), exact=True)
        for name, value in means.items()
    ]
    details = {
        "mode": mode,
        "questions": len(scores),
        "means": means,
        "categories": {name: average(ones) for name, ones in by_category.items() if ones},
    }
    return Report(figures, details)


async def _ask_all(address: tuple[str, int], conversations: list[Conversation], mode: str) -> list[Score]:
    scores: list[Score] = []
    run_name = secrets.token_hex(4)
    async with connections(address, _CLIENTS) as opened:
        for conversation in conversations:
            user_id = f"locomo-{run_name}-{conversation.id}"
            try:
                await store(opened[0], user_id, _memories(conversation))
                clients = [partial(_ask, connection, user_id, mode, scores) for connection in opened]
                await closed_loop(conversation.questions, clients)
            finally:
                await forget(opened[0], user_id)
    return scores


def _memories(conversation: Conversation) -> list[dict[str, Any]]:
    return [
        {"text": turn.text, "run_id": turn.session, "created_at": turn.said_at, "metadata": {"dia_id": turn.id}}
        for turn in conversation.turns
    ]


async def _ask(connection: Connection, user_id: str, mode: str, scores: list[Score], question: Question) -> None:
    body = {"user_id": user_id, "query": question.text, "limit": max(DEPTHS), "mode": mode}
    status, answer = await connection.send(encode("POST", "/v1/search", body))
    if status != 200:
        raise RuntimeError(f"a search was answered with {status}: {answer[:300]!r}")
    hits = msgspec.json.decode(answer)["results"]
    ranked = [hit["metadata"]["dia_id"] for hit in hits]
    scores.append(score(question.category, ranked, question.evidence))


def _cells(scores: list[Score]) -> list[str]:
    return [str(len(scores)), *(f"{mean:.1f}" for mean in average(scores).values())]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="LoCoMo's JSON file")
    parser.add_argument("--url", help="a running service; the users of the run are forgotten at its end")
    parser.add_argument("--mode", default="vector", help="search mode (vector)")
    parser.add_argument("--expect-dense", action="store_true", help="fail unless R@10 is that of WordLlama alone")


def main() -> int:
    """Run from the command line; 1 when --expect-dense is given and missed."""
    chosen = options(__doc__, _arguments, timed=False)
    report = measure(chosen.data, url=chosen.url, mode=chosen.mode, expect_dense=chosen.expect_dense)
    return finish(report, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
