"""docs/latency.md is what `make budget` makes, and `make budget` makes what it says."""

import asyncio
import re
from math import inf
from xml.etree import ElementTree as ET

import pytest
from bench.budget.__main__ import PAGE, main
from bench.budget.measure import Effort, Found, Row, expected, expected_stages, measure
from bench.budget.page import HEAD, STAGES_HEAD, WRITTEN, tables
from bench.budget.scenes import SCENES
from bench.budget.stages import Histogram, StageRow
from bench.harness.load import run

from memfast.metrics import STAGES

FACTS = ["made", "processor", "memory", "system", "load average before", "software", "requests of a quick operation"]


def check(page):
    """A page has every row, in order, with numbers that can be, the machine and the date, and its drawing."""
    text = page.read_text()
    *measured, (stages_head, *stages), machine = tables(text)
    assert [line[3:].lower() for line in text.splitlines() if line.startswith("## ")][: len(SCENES)] == [
        scene.name.lower() for scene in SCENES
    ]
    assert [table[0] for table in measured] == [HEAD] * len(SCENES)
    rows = [(scene.name, *row) for scene, table in zip(SCENES, measured, strict=True) for row in table[1:]]
    found = [(scene, name, "" if by == WRITTEN else by, int(clients)) for scene, name, by, clients, *_ in rows]
    assert found == expected()
    for _, _, _, _, *cells in rows:
        p50, p95, p99, per_second, cpu = (float(cell.replace(",", "")) for cell in cells)
        assert 0 < p50 <= p95 <= p99
        assert per_second > 0
        assert cpu >= 0
    assert stages_head == STAGES_HEAD
    assert [row[:2] for row in stages] == expected_stages()
    for _, told, *parts, whole in stages:
        spent = [float(cell.replace(",", "")) for cell in parts if cell != "-"]
        assert len(spent) >= 3
        assert told != "mean" or 0 < sum(spent) < float(whole.replace(",", ""))
    facts = dict(machine[1:])
    assert list(facts) == FACTS
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["made"])
    assert all(facts.values())
    drawing = ET.fromstring(page.with_suffix(".svg").read_text())
    labels = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    alone = [f"{scene}: {name} ({by or 'write'})" for scene, name, by, clients in expected() if clients == 1]
    assert [label for label in labels if ": " in label] == alone


def test_the_published_page_is_what_the_command_makes():
    """Whoever times another operation, or names one otherwise, has to make the page again."""
    check(PAGE)


def test_percentiles_of_buckets():
    """Values lie evenly within a bucket; those above the last bound count as it; none are none."""
    seen = Histogram((1.0, 2.0, 4.0, inf), (0.0, 10.0, 20.0, 20.0), 50.0)
    assert [seen.told(measure) for measure in ("mean", "p50", "p95", "p99")] == [2.5, 2.0, 3.8, 3.96]
    later = Histogram(seen.bounds, (0.0, 10.0, 20.0, 21.0), 150.0).since(seen)
    assert later.told("mean") == 100
    assert later.told("p50") == 4
    assert seen.since(seen).told("p50") is None
    assert Histogram().told("mean") is None


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_every_operation_is_timed(scene):
    """For every number of clients, answered by what its row says; stages take less than the whole."""
    found = await asyncio.to_thread(run, measure(Effort(requests=2, memories=120), (scene,)))
    assert [row.key for row in found.rows] == expected((scene,))
    assert all(0 < row.p50_ms <= row.p95_ms <= row.p99_ms and row.per_second > 0 for row in found.rows)
    assert [(row.search, row.measure) for row in found.stages] == expected_stages((scene,))
    means = [row for row in found.stages if row.measure == "mean"]
    assert all(0 < sum(filter(None, row.stages_us)) < row.whole_us for row in means)


def test_the_command_writes_the_page(tmp_path, monkeypatch):
    """What was measured stands on the page and in the file of numbers."""
    rows = [Row(*key, 1.0, 2.0, 3000.0, 10.0, 5.0) for key in expected()]
    stages = [StageRow(*key, (1.0, None, 2.0, *[None] * (len(STAGES) - 4), 3.0), 10.0) for key in expected_stages()]

    async def measured(_effort):
        return Found(rows, stages)

    monkeypatch.setattr("bench.budget.__main__.measure", measured)
    page = tmp_path / "latency.md"
    assert main(["--page", str(page), "--json", str(tmp_path / "numbers.json")]) == 0
    check(page)
    assert "| 1.00 | 2.00 | 3,000 | 10.0 | 5.00 |" in page.read_text()
    assert '"p99_ms":3000' in (tmp_path / "numbers.json").read_text()
