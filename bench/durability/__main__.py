"""No acknowledged write is ever lost: a real service under writers, while everything around it fails.

    python -m bench.durability [--kills N] [--cuts N] [--power N] [--controls N] [--only PART] [--seed N] [--json FILE]

Eight clients create, change and delete memories over HTTP, alone and in batches, and keep account of what they sent and
what they were told. Then something fails; the service goes on, or is started again; and all memories are read and
compared: what was acknowledged stands, what was refused does not, of the rest each write is whole or absent.

    kills     kill -9 of a worker, the parent, PostgreSQL's first process, one of its others, or all at once
    cuts      a proxy breaks connections between service and PostgreSQL, most of them at COMMIT
    power     the data directory lies on a disk that loses what was not flushed (ext4 in ext4); the power is cut
    full      the disk fills up: by the writers to the bound, and by somebody else to the last byte
    controls  the same rounds where a promise is broken on purpose. These must find losses

Every round prints its seed. `power` and `full` mount file systems and need root; where that is not permitted they are
left out, and the last line says so.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bench.durability.cuts import cut_rounds
from bench.durability.full import fill_rounds
from bench.durability.journal import Account
from bench.durability.kills import Round, kill_rounds
from bench.durability.planted import Unsafe
from bench.durability.power import power_rounds
from bench.harness.disk import NotPermitted
from bench.harness.load import run
from bench.harness.report import Figure, Report, finish, options, print_table
from bench.harness.service import scratch_dir

__all__ = ["measure"]

PARTS = ("kills", "cuts", "power", "full", "controls")
FOUND = 0.9
"""The share of a control's rounds that must find a loss."""


def measure(
    *, kills: int, cuts: int, power: int, controls: int, seed: int, parts: tuple[str, ...] = PARTS
) -> tuple[Report, list[str]]:
    """Run every part; returns the figures, and what this machine did not permit."""
    rounds: list[Round] = []
    figures: list[Figure] = []
    missing: list[str] = []
    with scratch_dir() as root:
        sound = {
            "kills": kill_rounds(root / "kills", rounds=kills, seed=seed),
            "cuts": cut_rounds(root / "cuts", rounds=cuts, seed=seed),
            "power": power_rounds(root / "power", rounds=power, seed=seed),
            "full": fill_rounds(root / "full", seed=seed),
        }
        for part in (part for part in sound if part in parts):
            found = _collected(root / part, sound[part])
            if found is None:
                missing.append(part)
                continue
            rounds += found
            figures.append(Figure(f"{part}: rounds", len(found), at_least=1))
            figures += _figures(part, found)
        for name, folder, control in _controls(root, controls, seed) if "controls" in parts else ():
            found = _collected(folder, control)
            if found is None:
                missing.append(f"control {name}")
                continue
            rounds += [Round(f"control {name}", each.seed, each.account, each.back_s) for each in found]
            share = sum(each.account.wrong > 0 for each in found) / len(found)
            figures.append(Figure(f"control {name}: rounds that found losses", share, at_least=FOUND))
    _print(rounds)
    return Report(figures, {"rounds": [each.line() for each in rounds]}), missing


def _controls(root: Path, rounds: int, seed: int) -> Iterator[tuple[str, Path, AsyncIterator[Round]]]:
    """Every part with a promise broken: name, its folder below `root`, rounds."""
    late, unsynced, guessed = Unsafe("synchronous_commit"), Unsafe("fsync"), Unsafe("outcome")
    folders = (root / f"control-{number}" for number in itertools.count())
    folder = next(folders)
    kill = kill_rounds(folder, rounds=rounds, seed=seed, faults=("everything",), unsafe=late)
    yield "kill, synchronous_commit off", folder, kill
    folder = next(folders)
    yield "cut, COMMIT believed", folder, cut_rounds(folder, rounds=rounds, seed=seed, cuts=("before",), unsafe=guessed)
    folder = next(folders)
    yield "power, synchronous_commit off", folder, power_rounds(folder, rounds=rounds, seed=seed, unsafe=late)
    folder = next(folders)
    yield "power, fsync off", folder, power_rounds(folder, rounds=rounds, seed=seed, unsafe=unsynced)
    folder = next(folders)
    yield "power, disk ignores flushes", folder, power_rounds(folder, rounds=rounds, seed=seed, honest=False)


def _collected(folder: Path, rounds: AsyncIterator[Round]) -> list[Round] | None:
    """The rounds, printed as they end; None where this machine does not permit them."""
    folder.mkdir()
    folder.chmod(0o755)

    async def all_of() -> list[Round]:
        found = []
        async with contextlib.aclosing(rounds):  # type: ignore[type-var]
            async for each in rounds:
                print(each.line(), flush=True)
                found.append(each)
        return found

    try:
        return run(all_of())
    except NotPermitted as error:
        print(f"left out: {error}", flush=True)
        return None


def _figures(part: str, rounds: list[Round]) -> list[Figure]:
    total = Account()
    for each in rounds:
        total.add(each.account)
    return [
        Figure(f"{part}: acknowledged", total.acknowledged, at_least=1),
        Figure(f"{part}: acknowledged and lost", total.lost, at_most=0),
        Figure(f"{part}: refused or never sent, and there", total.undead, at_most=0),
        Figure(f"{part}: half there", total.half, at_most=0),
        Figure(f"{part}: memories or versions that are there twice", total.twice, at_most=0),
        Figure(f"{part}: users whose version went back", total.backwards, at_most=0),
    ]


def _print(rounds: list[Round]) -> None:
    """One row a fault."""
    rows = []
    for fault, count in Counter(each.fault for each in rounds).items():
        own = [each for each in rounds if each.fault == fault]
        total = Account()
        for each in own:
            total.add(each.account)
        back_s = statistics.median(each.back_s for each in own)
        numbers = (count, total.acknowledged, total.refused, total.unanswered, total.made, total.lost)
        others = total.wrong - total.lost
        rows.append((fault, *(f"{number:,}" for number in (*numbers, others)), f"{back_s:.2f} s"))
    head = ("fault", "rounds", "acknowledged", "refused", "unanswered", "of which there", "lost", "other", "back after")
    print()
    print_table(head, rows or [("none", *("",) * 8)])


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--kills", type=int, default=54, help="rounds of killing")
        parser.add_argument("--cuts", type=int, default=30, help="rounds of cutting connections")
        parser.add_argument("--power", type=int, default=20, help="rounds of power cuts")
        parser.add_argument("--controls", type=int, default=10, help="rounds of each control")
        parser.add_argument("--seed", type=int, default=1, help="of the first round of each part")
        parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")

    chosen = options(__doc__ or "", more, timed=False)
    report, missing = measure(
        kills=chosen.kills,
        cuts=chosen.cuts,
        power=chosen.power,
        controls=chosen.controls,
        seed=chosen.seed,
        parts=tuple(chosen.only or PARTS),
    )
    missed = finish(report, chosen.json)
    for part in missing:
        print(f"left out: {part}, for this machine lets nobody mount file systems")
    return missed


if __name__ == "__main__":
    sys.exit(main())
