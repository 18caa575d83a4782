"""The bound on a worker's memory."""

from __future__ import annotations

from memfast.service.pressure import STEP_BYTES, Pressure

MIB = 1024 * 1024


class Layer:
    """Copies that can be let go."""

    def __init__(self, nbytes):
        self.nbytes = nbytes
        self.sweeps = 0

    def sweep(self):
        self.sweeps += 1

    def release(self, wanted_bytes):
        released = min(self.nbytes, wanted_bytes)
        self.nbytes -= released
        return released


class Machine:
    """Memory that is resident: what the layers hold, and the rest."""

    def __init__(self, rest, *layers):
        self.rest, self.layers, self.given_back = rest, layers, 0

    def resident(self):
        return self.rest + sum(layer.nbytes for layer in self.layers)

    def give_back(self):
        self.given_back += 1


def build(machine, budget):
    """Watch a machine with a budget."""
    return Pressure(budget, machine.resident, machine.layers, machine.give_back)


async def test_calm_memory_is_left_alone():
    """Under 80 % nothing goes."""
    machine = Machine(20 * MIB, Layer(59 * MIB))
    pressure = build(machine, 100 * MIB)
    await pressure.relieve()
    assert machine.layers[0].nbytes == 59 * MIB
    assert (pressure.counts.clean_ups, pressure.counts.emergencies) == (0, 0)


async def test_high_memory_is_cleaned_up_in_steps():
    """From 80 % on one step goes at each look, of the largest layer, and is given back."""
    machine = Machine(20 * MIB, Layer(5 * MIB), Layer(60 * MIB))
    pressure = build(machine, 100 * MIB)
    await pressure.relieve()
    assert [layer.nbytes for layer in machine.layers] == [5 * MIB, 60 * MIB - STEP_BYTES]
    assert pressure.counts.clean_ups == 1
    assert machine.given_back == 1


async def test_critical_memory_falls_to_the_target_at_once():
    """From 95 % on memory falls to 70 % at one look, and is given back."""
    machine = Machine(20 * MIB, Layer(30 * MIB), Layer(46 * MIB))
    pressure = build(machine, 100 * MIB)
    await pressure.relieve()
    assert machine.resident() <= 70 * MIB
    assert machine.resident() > 60 * MIB
    assert pressure.counts.emergencies == 1
    assert machine.given_back == 1


async def test_an_emergency_ends_when_nothing_is_left():
    """Memory that the copies do not hold cannot be let go: the look ends all the same."""
    machine = Machine(99 * MIB, Layer(MIB))
    pressure = build(machine, 100 * MIB)
    await pressure.relieve()
    assert machine.layers[0].nbytes == 0
    assert pressure.counts.released_bytes == MIB
