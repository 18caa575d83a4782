"""Cells that processes share: rows are nobody else's, outlive their writers, and are remembered for an hour."""

import contextlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from memfast.metrics import Board, Meter, Operation
from memfast.metrics.board import ALIVE_S, CELLS, RESERVED

CELL = RESERVED + 1


@pytest.fixture
def path(tmp_path):
    """A file with three rows."""
    Board.create(tmp_path / "metrics", 3)
    return tmp_path / "metrics"


@pytest.fixture
def opened(path):
    """Function: one more opener of the file, closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def open_board():
            board = Board.open(path)
            stack.callback(board.close)
            return board

        yield open_board


def test_every_writer_has_a_row_of_its_own(opened):
    """The first free one; with none left there is none. What one gives up another takes, with what it shows."""
    boards = [opened() for _ in range(4)]
    rows = [board.claim() for board in boards]
    assert [row and row.number for row in rows] == [0, 1, 2, None]
    rows[1].cells[CELL] = 5
    boards[1].close(1)
    again = boards[3].claim()
    assert (again.number, again.cells[CELL]) == (1, 5)


def test_totals_are_of_all_rows_also_of_the_dead(opened):
    """Whoever looks sees the sum over everybody."""
    boards = [opened() for _ in range(3)]
    for amount, board in enumerate(boards, 1):
        board.claim().cells[CELL] = amount
    boards[0].close(0)
    assert boards[1].totals()[CELL] == boards[2].totals()[CELL] == 6


CLAIM = """
import sys
from memfast.metrics import Board
board = Board.open(sys.argv[1])
row = board.claim()
row.cells[int(sys.argv[2])] += 7
board.beat(row.number, float(sys.argv[3]))
print(row.number, flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_its_counts(path, opened):
    """Its row is free at once, keeps what it counted, and says for a moment only that somebody lives there."""
    board = opened()
    child = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(path), str(CELL), "100"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"0\n"
        assert board.claim().number == 1, "the child holds row 0"
        assert board.alive(100 + ALIVE_S - 0.1) == [0]
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert board.totals()[CELL] == 7
    assert board.alive(100 + ALIVE_S + 0.1) == []
    heir = opened()
    row = heir.claim()
    assert (row.number, row.cells[CELL]) == (0, 7)


def test_a_writer_that_leaves_is_gone_at_once(opened):
    """A stop in order needs no time to show."""
    board, other = opened(), opened()
    board.beat(board.claim().number, 50.0)
    assert other.alive(50.0) == [0]
    board.close(0)
    assert other.alive(50.0) == []


def test_snapshots_tell_what_was_added_lately(opened):
    """By the last snapshot before the window; what is younger than the window tells all it has."""
    board = opened()
    row = board.claim()
    assert board.since(1000.0, 60)[1] == 0, "nothing is known before the first sign of life"
    for second in range(4001):
        row.cells[CELL] = second
        board.beat(row.number, 1000.0 + second)
    for window_s, interval_s in ((60, 10), (300, 10), (3600, 60)):
        added, covered_s = board.since(5000.0, window_s)
        assert window_s <= covered_s <= window_s + interval_s
        assert added[CELL] == covered_s, "one a second"
    board.beat(row.number, 9000.0)
    added, covered_s = board.since(9000.0, 60)
    assert covered_s >= 60
    assert added[CELL] == 0


def test_other_files_are_refused(path, tmp_path):
    """Something else, or cells of another version, are never written to."""
    with pytest.raises(FileExistsError):
        Board.create(path, 3)
    (tmp_path / "short").write_bytes(b"MEMF")
    content = bytearray(path.read_bytes())
    content[12:16] = (4).to_bytes(4, "little")
    (tmp_path / "other").write_bytes(content)
    for name in ("short", "other"):
        with pytest.raises(ValueError, match="holds no metrics of this version"):
            Board.open(tmp_path / name)


def test_a_worker_without_a_row_counts_for_itself(opened, caplog):
    """It serves all the same, and says so."""
    for _ in range(3):
        opened().claim()
    board = opened()
    meter = Meter(board)
    meter.counter("memfast_requests_abandoned").add()
    assert "every row of the metrics is taken" in caplog.text
    assert not board.rows[:, RESERVED:].any()
    assert meter.board.totals()[RESERVED:].sum() == 1


def test_the_rows_hold_every_definition():
    """With three times the routes that there are."""
    routes = [Operation("GET", f"/v1/{number}", tiered=number < 10) for number in range(80)]
    meter = Meter(Board.private(), routes)
    ends = [
        place + meter.layout.families[name].cells
        for name in meter.layout.families
        for place in meter.layout.places(name).values()
    ]
    assert max(ends) <= CELLS
    assert len(set(ends)) == len(ends)
    assert np.all(np.diff(ends) > 0), "no two share a cell"
