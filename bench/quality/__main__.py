"""Retrieval quality on LoCoMo, over the HTTP API.

    python -m bench.quality <locomo.json> [--url URL] [--search '{"mode": "lexical"}' ...] [--json FILE]

One user a conversation, one memory a turn, one search a question; found is what an annotator named as evidence. No
language model anywhere. Without --url a service is started for the run. Every configuration is asked every question,
and compared with the default one by a paired bootstrap; --search adds configurations of one's own.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.harness.load import Connection, call, closed_loop, connections, run
from bench.harness.report import Figure, Report, finish, options, print_table
from bench.quality.locomo import CATEGORIES, Conversation, Question, read
from bench.quality.measures import DEPTHS, Score, average, macro_ndcg, paired_bootstrap, score
from bench.quality.served import forget, served, store

__all__ = ["measure"]

DEFAULT = "hybrid"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "hybrid, neighbours": {"neighbors": True},
    "vector": {"mode": "vector"},
    "lexical": {"mode": "lexical"},
    "hybrid, rank fusion": {"fusion": "rrf"},
}
"""What is added to a search, by name."""
LEGS = ("vector", "lexical", "context")
"""Legs of a hybrid search: each is left out in turn."""

GATES: dict[tuple[str, str], tuple[float, float | None]] = {
    ("vector", "R@10"): (39.1, 40.1),  # what WordLlama alone reaches
    ("lexical", "R@10"): (66.9, 67.9),
    (DEFAULT, "R@10"): (70.0, None),
    (DEFAULT, "nDCG@10"): (55.0, None),
    ("hybrid, neighbours", "R@10"): (78.0, None),
    ("hybrid, neighbours", "nDCG@10"): (59.0, None),
}
"""Bounds in percent, on the five development conversations."""
REMOVAL_GAIN_MAX = 0.3
"""Points of R@10 that leaving a leg out may gain."""
SAME_GATE = 100.0
_SAME_EVERY = 10

_CLIENTS = 4

Asked = dict[str, list[Score]]


def measure(path: Path, *, url: str | None = None, added: Mapping[str, dict[str, Any]] | None = None) -> Report:
    """Store the conversations, ask the questions in every configuration, judge the answers."""
    conversations = read(path)
    configurations = {
        **CONFIGURATIONS,
        **{f"hybrid without {leg}": {"weights": {leg: 0.0}} for leg in LEGS},
        **(added or {}),
    }
    with served(url) as address:
        asked, same = run(_ask_all(address, conversations, configurations))
    print(f"LoCoMo, {len(conversations)} conversations, percent")
    print_table(("", "questions", *average(asked[DEFAULT]), "macro nDCG@10"), [_row(*each) for each in asked.items()])
    _print_categories(asked)
    _print_differences(asked)
    details = {name: {"means": _means(scores), "categories": _categories(scores)} for name, scores in asked.items()}
    return Report([*_figures(asked), Figure("answers equal cold and warm", same, "%", at_least=SAME_GATE)], details)


async def _ask_all(
    address: tuple[str, int], conversations: list[Conversation], configurations: Mapping[str, dict[str, Any]]
) -> tuple[Asked, float]:
    asked: Asked = {name: [] for name in configurations}
    equal: list[bool] = []
    run_name = secrets.token_hex(4)
    async with connections(address, _CLIENTS) as opened:
        for conversation in conversations:
            user_id = f"locomo-{run_name}-{conversation.id}"
            try:
                await store(opened[0], user_id, _memories(conversation))
                equal += await _same_from_every_tier(opened[0], user_id, conversation)
                for name, search in configurations.items():
                    found: dict[int, Score] = {}
                    clients = [partial(_ask, connection, user_id, search, found) for connection in opened]
                    await closed_loop(list(enumerate(conversation.questions)), clients)
                    asked[name] += [found[number] for number in range(len(found))]
            finally:
                await forget(opened[0], user_id)
    return asked, 100 * sum(equal) / len(equal)


def _memories(conversation: Conversation) -> list[dict[str, Any]]:
    return [
        {"text": turn.text, "run_id": turn.session, "created_at": turn.said_at, "metadata": {"dia_id": turn.id}}
        for turn in conversation.turns
    ]


async def _ask(
    connection: Connection,
    user_id: str,
    search: dict[str, Any],
    found: dict[int, Score],
    numbered: tuple[int, Question],
) -> None:
    number, question = numbered
    hits = (await _search(connection, user_id, search, question, max(DEPTHS)))["results"]
    ranked = [hit["metadata"]["dia_id"] for hit in hits]
    found[number] = score(question.category, ranked, question.evidence)


async def _search(connection: Connection, user_id: str, search: dict[str, Any], question: Question, limit: int) -> Any:
    body = {"user_id": user_id, "query": question.text, "limit": limit} | search
    return await call(connection, "POST", "/v1/search", body)


async def _same_from_every_tier(connection: Connection, user_id: str, conversation: Conversation) -> list[bool]:
    """For some of the questions, whether a search gives the same when every copy was dropped before it."""
    questions = conversation.questions[::_SAME_EVERY]
    searches = [search for search in CONFIGURATIONS.values() for _ in questions]
    cold, warm = [], []
    for search, question in zip(searches, questions * len(CONFIGURATIONS), strict=True):
        await call(connection, "POST", "/v1/cache/clear")
        cold.append(await _search(connection, user_id, search, question, 10))
    await call(connection, "POST", "/v1/cache/clear")
    await call(connection, "POST", "/v1/warm", {"users": [user_id], "queries": 0})
    for search, question in zip(searches, questions * len(CONFIGURATIONS), strict=True):
        warm.append(await _search(connection, user_id, search, question, 10))
        if b"memfast-tier: warm" not in connection.head:
            raise RuntimeError(f"a search that should be warm was not: {connection.head!r}")
    return [first["results"] == second["results"] for first, second in zip(cold, warm, strict=True)]


def _means(scores: list[Score]) -> dict[str, float]:
    return average(scores) | {"macro nDCG@10": macro_ndcg(scores)}


def _row(name: str, scores: list[Score]) -> list[str]:
    return [name, str(len(scores)), *(f"{mean:.1f}" for mean in _means(scores).values())]


def _categories(scores: list[Score]) -> dict[str, dict[str, float]]:
    by_category = {name: [one for one in scores if one.category == number] for number, name in CATEGORIES.items()}
    return {name: average(ones) for name, ones in by_category.items() if ones}


def _print_categories(asked: Asked) -> None:
    names = list(_categories(asked[DEFAULT]))
    rows = []
    for name, scores in asked.items():
        categories = _categories(scores)
        rows.append([name, *(f"{categories[each]['R@10']:.1f} / {categories[each]['nDCG@10']:.1f}" for each in names)])
    print_table(("R@10 / nDCG@10", *names), rows)


def _print_differences(asked: Asked) -> None:
    """Each configuration against the default."""
    rows = []
    for name in asked.keys() - {DEFAULT}:
        cells = [
            "{:+.1f} ({:+.1f} .. {:+.1f})".format(*(100 * value for value in paired_bootstrap(ours, theirs)))
            for ours, theirs in (
                ([one.recall[10] for one in asked[name]], [one.recall[10] for one in asked[DEFAULT]]),
                ([one.ndcg for one in asked[name]], [one.ndcg for one in asked[DEFAULT]]),
            )
        ]
        rows.append([name, *cells])
    print_table((f"beyond {DEFAULT}, with its 95 % interval", "R@10", "nDCG@10"), sorted(rows))


def _figures(asked: Asked) -> list[Figure]:
    figures = []
    for name, scores in asked.items():
        means = _means(scores)
        for measure_name in ("R@10", "nDCG@10"):
            low, high = GATES.get((name, measure_name), (None, None))
            figures.append(Figure(f"LoCoMo {name}: {measure_name}", means[measure_name], "%", low, high))
    whole = _means(asked[DEFAULT])["R@10"]
    for leg in LEGS:
        gain = _means(asked[f"hybrid without {leg}"])["R@10"] - whole
        name = f"LoCoMo: R@10 gained by leaving out {leg}"
        figures.append(Figure(name, gain, "points", at_most=REMOVAL_GAIN_MAX))
    return figures


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="LoCoMo's JSON file")
    parser.add_argument("--url", help="a running service; the users of the run are forgotten at its end")
    parser.add_argument(
        "--search", action="append", default=[], metavar="JSON", help="one more configuration; may be repeated"
    )


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, _arguments, timed=False)
    added = {text: msgspec.json.decode(text, type=dict[str, Any]) for text in chosen.search}
    return finish(measure(chosen.data, url=chosen.url, added=added), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
