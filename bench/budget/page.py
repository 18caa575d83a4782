"""docs/latency.md: rows as tables, and the tables read back."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.budget.measure import Effort, Found, Row
from bench.budget.scenes import SCENES
from bench.harness.report import number
from memfast import kernels
from memfast.metrics import STAGES

__all__ = ["HEAD", "STAGES_HEAD", "WRITTEN", "Machine", "page", "tables", "write"]

WRITTEN = "PostgreSQL, durably"
"""What answers a write: it is on disk then."""

HEAD = ("operation", "answered by", "clients", "p50 ms", "p95 ms", "p99 ms", "requests/s", "CPU µs")

STAGES_HEAD = ("search", "µs", *STAGES, "whole request")

_STAGES = """\
## Stages of a search

Where the time of one search goes inside the service, one client, in microseconds, by its own metrics
(`memfast_search_stage_duration_seconds` of `/metrics`): means are exact, percentiles are estimated from its buckets as Prometheus does
it. `warm` is getting the user's memories, `rank` scoring and fusing, `wait` waiting for an equal search. The rest of the whole
request, which the client sees, is the edge, the web server, the loopback and the client itself.
"""

_INTRODUCTION = """\
# Latency

What each operation takes, by what answers it and by how many clients ask. Made by `make budget`; a test holds the tables to
what that command makes. The numbers are those of one machine at one time, below: to compare two states of the project, run
it for both, on one machine, in turns; what is promised is promised as ratios, by the gates in
[bench/README.md](../bench/README.md).

Milliseconds from sending a request to having its whole answer, over HTTP on loopback, closed loop: each client has a
connection of its own and asks again as soon as it is answered. So with many clients a time is that of waiting for those
before, clients ÷ requests/s; with one it is what an operation takes. `CPU µs` is the processor time of the worker for a request,
without PostgreSQL's. Times at a given rate of arrivals: `python -m bench.load`. One user has {memories} memories of 8 to 24
words, searches ask for ten. A search `again` is one that was just answered; every other one was never asked before. A service as
installed refuses reads that take over two seconds; here it has thirty.

![Percentiles by operation, one client](latency.svg)
"""


@dataclass(frozen=True)
class Machine:
    """What the numbers were measured on, and when."""

    made: str
    processor: str
    cores: int
    memory_gb: float
    system: str
    load: float
    versions: str

    @classmethod
    def here(cls) -> Machine:
        """This one, now."""
        names = ("granian", "uvloop", "litestar", "asyncpg", "numpy")
        versions = [f"Python {platform.python_version()}", f"{kernels.IMPL} kernels"]
        versions += [f"{name} {importlib.metadata.version(name)}" for name in names]
        return cls(
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            _processor(),
            os.cpu_count() or 0,
            psutil.virtual_memory().total / 1024**3,
            f"{platform.system()} {platform.release()}",
            os.getloadavg()[0],
            ", ".join(versions),
        )

    def lines(self, effort: Effort) -> list[str]:
        """As a table."""
        busy = "" if self.load < 2 else "; others worked on it too, so that on a quiet machine the times are shorter"
        rows = [
            ("made", self.made),
            ("processor", f"{self.processor}, {self.cores} cores, shared by client, service and PostgreSQL"),
            ("memory", f"{self.memory_gb:.1f} GiB"),
            ("system", self.system),
            ("load average before", f"{self.load:.1f}{busy}"),
            ("software", self.versions),
            ("requests of a quick operation", f"{effort.requests:,}"),
        ]
        return ["## The machine", "", *_table(("", ""), rows), ""]


def page(found: Found, machine: Machine, effort: Effort) -> str:
    """The whole document."""
    lines = [_INTRODUCTION.format(memories=f"{effort.memories:,}")]
    for scene in SCENES:
        cells = [
            (each.name, each.tier or WRITTEN, str(each.clients), *map(number, _numbers(each)))
            for each in found.rows
            if each.scene == scene.name
        ]
        lines += [f"## {scene.name[0].upper()}{scene.name[1:]}", "", scene.text, "", *_table(HEAD, cells), ""]
    told = [(each.search, each.measure, *map(_shown, (*each.stages_us, each.whole_us))) for each in found.stages]
    lines += [_STAGES, *_table(STAGES_HEAD, told), ""]
    lines += machine.lines(effort)
    lines += [
        "## Again",
        "",
        "    make budget",
        "    python -m bench.budget --requests 200 --page other.md   # a look",
        "",
    ]
    return "\n".join(lines)


def tables(text: str) -> list[list[tuple[str, ...]]]:
    """The tables of a page, each with its head first and without the line below that."""
    found: list[list[tuple[str, ...]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(tuple(cell.strip() for cell in line.strip().strip("|").split("|")))
        elif found[-1]:
            found.append([])
    return [[head, *rows] for head, _, *rows in filter(None, found)]


def write(path: Path, text: str, drawing: str) -> None:
    """Put the page where it belongs, with its drawing beside it."""
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".svg").write_text(drawing, encoding="utf-8")


def _shown(value_us: float | None) -> str:
    return "-" if value_us is None else number(value_us)


def _numbers(row: Row) -> tuple[float, ...]:
    return row.p50_ms, row.p95_ms, row.p99_ms, row.per_second, row.cpu_us


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _processor() -> str:
    """Its name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
