"""Neighbours in runs, the same from both twins and by the plain definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfast._native import _runs_reference


def columns(rows, hidden, first=0):
    """Columns of rows (run, created, number of the id)."""
    passing = np.array([first + place not in hidden for place in range(len(rows))], np.bool_)
    return (
        np.array([run for run, _, _ in rows], np.int32),
        np.array([created for _, created, _ in rows], np.int64),
        np.array([number.to_bytes(16, "big") for _, _, number in rows], "S16").reshape(len(rows)),
        None if passing.all() else passing,
    )


def ordered(base):
    """The rows of a base by (run, created, id)."""
    return np.lexsort((base[2], base[1], base[0])).astype(np.int32)


@st.composite
def cases(draw):
    """Draw (base, order, tail, rows, reach)."""
    count = draw(st.integers(0, 30))
    numbers = draw(st.permutations(range(0, 256 * count, 256)))
    rows = [(draw(st.integers(-1, 2)), draw(st.integers(-3, 3)), number) for number in numbers]
    hidden = draw(st.sets(st.integers(0, 29), max_size=8))
    size = draw(st.integers(0, count))
    base, tail = columns(rows[:size], hidden), columns(rows[size:], hidden, size)
    wanted = draw(st.lists(st.integers(0, count - 1), max_size=10)) if count else []
    return base, ordered(base), tail, np.array(wanted, np.int64), draw(st.integers(1, 4))


@given(case=cases())
@settings(max_examples=300, deadline=None)
def test_neighbours_by_definition(runs, case):
    """The reach rows before and behind, of those of the same run that pass."""
    base, order, tail, rows, reach = case
    found = runs.neighbours(base, order, tail, rows, reach)
    assert found.shape == (2 * reach, len(rows))
    assert found.dtype == np.int64
    assert found.tobytes() == _runs_reference.neighbours(base, order, tail, rows, reach).tobytes()
    run, created, ids = (np.concatenate((base[i], tail[i])) for i in range(3))
    passing = np.concatenate([np.ones(len(part[0]), np.bool_) if part[3] is None else part[3] for part in (base, tail)])
    for row, line in zip(rows, found.T, strict=True):
        line_of_run = sorted(
            (other for other in range(len(run)) if run[other] == run[row] and (passing[other] or other == row)),
            key=lambda other: (created[other], ids[other].ljust(16, b"\0")),
        )
        place = line_of_run.index(row)
        around = [at for far in range(1, reach + 1) for at in (place - far, place + far)]
        expected = [line_of_run[at] if 0 <= at < len(line_of_run) else -1 for at in around]
        assert line.tolist() == (expected if run[row] >= 0 else [-1] * (2 * reach))


def test_many_rows(runs):
    """Large parts, for which the GIL is let go, are read as small ones are."""
    rng = np.random.default_rng(4)
    rows = [(int(run), int(created), number) for number, (run, created) in enumerate(rng.integers(0, 60, (1500, 2)))]
    base, tail = columns(rows[:500], {3}), columns(rows[500:], {700}, 500)
    wanted = np.arange(0, 1500, 7)
    found = runs.neighbours(base, ordered(base), tail, wanted, 2)
    assert found.tobytes() == _runs_reference.neighbours(base, ordered(base), tail, wanted, 2).tobytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"base": lambda base: (base[0].astype(np.int64), *base[1:])}, "columns must be"),
        ({"tail": lambda tail: (tail[0], tail[1][:0], *tail[2:])}, "columns must be"),
        ({"tail": lambda tail: (*tail[:2], tail[2].astype("S8"), None)}, "columns must be"),
        ({"tail": lambda tail: (*tail[:3], np.ones(2, np.int64))}, "columns must be"),
        ({"base": lambda base: (*base[:3], np.ones(9, np.bool_))}, "columns must be"),
        ({"order": lambda order: order[:-1]}, "order must be"),
        ({"rows": lambda rows: rows - 1}, "rows must be"),
        ({"rows": lambda rows: rows + 3}, "rows must be"),
        ({"rows": lambda rows: rows.astype(np.int32)}, "rows must be"),
        ({"reach": lambda _: 0}, "reach must be from 1 to 16"),
        ({"reach": lambda _: 17}, "reach must be from 1 to 16"),
    ],
)
def test_what_cannot_be_read_is_refused(runs, spoil, message):
    """Arrays of another dtype or length, and numbers out of range, are errors."""
    base, tail = columns([(1, 1, 1), (1, 2, 2)], ()), columns([(1, 3, 3), (1, 4, 4)], ())
    arguments = {"base": base, "order": ordered(base), "tail": tail, "rows": np.array([0, 1]), "reach": 2}
    for name, change in spoil.items():
        arguments[name] = change(arguments[name])
    with pytest.raises(ValueError, match=message):
        runs.neighbours(**arguments)
