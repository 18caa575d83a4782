"""Rules about the caches of answers and of embedded texts: their bounds, and how the answers share their memory."""

from __future__ import annotations

from collections.abc import Iterator

from memfast.advice.report import Advice, Evidence
from memfast.advice.room import MIB, budget_mb, fits, overcommitted
from memfast.advice.snapshot import Snapshot
from memfast.metrics.uses import LayerUse

__all__ = ["caches_too_large", "caches_too_small"]

LOOKUPS_MIN = 200
"""Look-ups from which on a cache is judged: a share of fewer says little (± 7 points of 50 % at 95 % confidence)."""

RECALLS_SHARE = 0.05
"""Part of the look-ups that asked for what was evicted just before: so many points more would be hits."""

FULL_SHARE = 0.9
"""A cache that holds so much of a bound is full: what does not fit beside a large answer is left empty."""

IDLE_SHARE = 0.25
"""A cache that holds no more of its memory, and evicts nothing, can give some of it away; less is not worth it."""

SPARED = 2.0
"""It keeps so many times what it holds."""

WASTE_SHARE = 0.1
"""Part of their memory that all answers hold, up to which they are promised too much if others need it."""

ANSWERS = ("search", "list", "get", "requests")
"""Caches that share cache.memory_mb."""

MEMORY_MB_MIN = 16
"""Nothing is advised to be smaller: that much is no burden to any machine."""


def caches_too_small(snapshot: Snapshot) -> Iterator[Advice]:
    """Full caches that are asked again for what they have just let go."""
    for name in (*ANSWERS, "embeddings"):
        counts, layer = snapshot.window.caches[name], snapshot.layers[name]
        lookups = counts.hits + counts.misses
        if lookups < LOOKUPS_MIN or counts.recalls < RECALLS_SHARE * lookups or not _is_full(layer):
            continue
        rate, better = counts.hits / lookups, min(1.0, (counts.hits + counts.recalls) / lookups)
        source = snapshot.source(f"caches.{name}")
        evidence = (
            Evidence("hit rate", round(rate, 4), source),
            Evidence("look-ups", lookups, source),
            Evidence("evictions", counts.evictions, source),
            Evidence("asked for again after that", counts.recalls, source),
            Evidence("held", f"{layer.entries} of {layer.limit_entries} entries", "GET /v1/stats, caches"),
            Evidence("memory", f"{_mib(layer.bytes)} of {_mib(layer.limit_bytes)} MiB", "GET /v1/stats, caches"),
        )
        expected = f"a hit rate of up to {better:.0%} instead of {rate:.0%}"
        yield _larger(snapshot, name, evidence, expected)


def caches_too_large(snapshot: Snapshot) -> Iterator[Advice]:
    """Answers that are promised much and hold little, where that is more than the budget can give."""
    layers = [snapshot.layers[name] for name in ANSWERS]
    held, limit = sum(layer.bytes for layer in layers), sum(layer.limit_bytes for layer in layers)
    evictions = sum(snapshot.window.caches[name].evictions for name in ANSWERS)
    wanted_mb = max(MEMORY_MB_MIN, int(SPARED * held / MIB) + 1)
    if not overcommitted(snapshot) or evictions or held > WASTE_SHARE * limit or wanted_mb * MIB >= limit:
        return
    yield Advice(
        rule="cache-too-large",
        subject="cache.memory_mb",
        finding="answers hold little of what they are promised, and all copies are promised more than there is",
        evidence=(
            Evidence("held", f"{_mib(held)} of {_mib(limit)} MiB", "GET /v1/stats, caches"),
            Evidence("evictions", 0, snapshot.source("caches")),
            Evidence("memory.budget_mb", snapshot.process.budget_bytes // MIB, "GET /v1/stats, process"),
        ),
        action=f"set cache.memory_mb = {wanted_mb}",
        expected="the same hit rate; users in memory no longer leave for answers that come in a rush",
        apply="settings",
        settings={"cache.memory_mb": wanted_mb},
    )


def _larger(snapshot: Snapshot, name: str, evidence: tuple[Evidence, ...], expected: str) -> Advice:
    """More room where the bound is that is reached: number, share of the memory, or the memory."""
    layer = snapshot.layers[name]
    entries_key = "cache.embedding_entries" if name == "embeddings" else "cache.entries"
    if name == "embeddings" or layer.entries >= FULL_SHARE * layer.limit_entries:
        value = 2 * snapshot.settings[entries_key]
        mean = layer.bytes / max(1, layer.entries)
        more = mean * layer.limit_entries if name == "embeddings" else 0.0
        return _advice(snapshot, name, {entries_key: value}, more, evidence, expected)
    more = float(
        sum(snapshot.layers[other].bytes for other in ANSWERS)
    )  # what is empty takes nothing when it is larger
    shares = {} if fits(snapshot, more) else _new_shares(snapshot, name)
    if shares:
        return _advice(snapshot, name, shares, 0.0, evidence, expected)
    value = 2 * snapshot.settings["cache.memory_mb"]
    return _advice(snapshot, name, {"cache.memory_mb": value}, more, evidence, expected)


def _advice(
    snapshot: Snapshot,
    name: str,
    settings: dict[str, float],
    more_bytes: float,
    evidence: tuple[Evidence, ...],
    expected: str,
) -> Advice:
    live = not more_bytes or fits(snapshot, more_bytes)
    if not live:
        settings = settings | {"memory.budget_mb": budget_mb(snapshot, more_bytes)}
    return Advice(
        rule="cache-too-small",
        subject=f"cache {name}",
        finding=f"the cache {name} is too small: what it lets go is asked for again",
        evidence=evidence,
        action="set " + ", ".join(f"{key} = {value:g}" for key, value in settings.items()),
        expected=expected,
        apply="settings" if live else "none",
        settings=settings,
    )


def _new_shares(snapshot: Snapshot, name: str) -> dict[str, float]:
    """Shares that double a cache's memory, or nearly, at the cost of those that are idle; nothing where none is."""
    if any(snapshot.window.caches[other].recalls for other in ANSWERS if other != name):
        return {}  # they need theirs too
    spare = {
        other: layer.limit_bytes - max(SPARED * layer.bytes, 0.1 * layer.limit_bytes)
        for other in ANSWERS
        if other != name
        for layer in [snapshot.layers[other]]
        if layer.bytes <= IDLE_SHARE * layer.limit_bytes and not snapshot.window.caches[other].evictions
    }
    total = sum(snapshot.layers[other].limit_bytes for other in ANSWERS)
    wanted, given = snapshot.layers[name].limit_bytes, sum(spare.values())
    if given < IDLE_SHARE * wanted:
        return {}
    part = min(1.0, wanted / given)
    sizes = {other: snapshot.layers[other].limit_bytes - part * spare.get(other, 0.0) for other in ANSWERS}
    sizes[name] += part * given
    changed = {other: round(size / total, 3) for other, size in sizes.items() if other == name or other in spare}
    return {f"cache.{other}_share": share for other, share in changed.items() if other != "requests"}


def _is_full(layer: LayerUse) -> bool:
    return layer.bytes >= FULL_SHARE * layer.limit_bytes or layer.entries >= FULL_SHARE * layer.limit_entries


def _mib(size: float) -> str:
    return f"{size / MIB:.1f}"
