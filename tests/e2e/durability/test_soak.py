"""`bench.soak` in its short form: three faults, and services whose faults only time shows. The long form: `make soak`."""

import asyncio

import pytest
from bench.durability.journal import Account
from bench.harness.leaky import Leaky
from bench.soak import FAULTS, GROWTH, LONG, _Reads, _report, _Sample, measure

BREAKER = "faults after which a breaker or a mode stayed"


async def soaked(*faults, **named):
    """The figures of a soak by their names; it has an event loop of its own."""
    assert set(faults) <= set(FAULTS)
    report = await asyncio.to_thread(measure, faults=faults, every_s=6.0, **named)
    assert report.details["tiers"]["hot"] > 0
    return {figure.name: figure for figure in report.figures}


async def test_three_faults_leave_nothing_behind(seed):
    """Nothing acknowledged lost, no wrong answer, no breaker that stays open, no descriptor or task more than before."""
    figures = await soaked("redis stopped", "postgres stopped", "network cut", seed=seed)
    assert [name for name, figure in figures.items() if figure.passed is False] == []
    assert figures["faults"].value == 3


@pytest.mark.parametrize(
    ("leak", "fault", "shows"),
    [
        ("descriptors", "network cut", "descriptors at the end above the start"),
        ("tasks", "network cut", "tasks at the end above the start"),
        ("breaker", "redis stopped", BREAKER),
    ],
)
async def test_a_service_that_is_worse_after_a_fault_is_caught(seed, leak, fault, shows):
    """By the figure that is there for it, and by no other but a breaker's."""
    figures = await soaked(fault, seed=seed, planted=Leaky(leak), settle_s=4.0)
    assert [name for name, figure in figures.items() if figure.passed is False] == [shows]


def test_memory_that_grows_is_caught():
    """Over the last two thirds of a long run; what grows before is a layer that fills."""

    def growth(sizes):
        samples = [_Sample("none", 1, 1, size, []) for size in sizes]
        figures = _report(Account(acknowledged=1), _Reads(), samples[0], samples, same=True).figures
        return next(figure for figure in figures if figure.name.startswith("memory at the end"))

    third = LONG // 3
    flat = [100 + 10 * min(number, third) for number in range(LONG)]
    assert growth(flat).passed
    rising = [1000 + number * 1000 * (GROWTH - 1) / third for number in range(LONG)]
    assert not growth(rising).passed
