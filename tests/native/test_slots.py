"""Shared epochs: nothing is lost over processes, nothing damaged is opened, nobody can aim at a slot."""

import os
import random
import struct
import subprocess
import sys

import pytest

from memfast._native import _slots, _slots_reference
from memfast._native._slots_reference import COUNT_MAX, HEADER_BYTES, siphash24

SALT = bytes(range(16))


@pytest.fixture
def table(slots, tmp_path):
    """A table of 1,024 counters."""
    made = slots.SlotTable.create(tmp_path / "slots", 1024, SALT)
    yield made
    made.close()


def test_counters_start_at_zero_and_only_grow(table):
    """Every slot counts for itself, the global one and the last too."""
    assert (table.count, table.salt) == (1024, SALT)
    for index in (0, 1, 1023):
        assert table.epoch(index) == 0
        assert [table.bump(index) for _ in range(3)] == [1, 2, 3]
        assert table.epoch(index) == 3
    assert table.epoch(2) == 0


def test_counters_hold_64_bits(table, slots, tmp_path):
    """A counter does not stop at 32 bits."""
    with (tmp_path / "slots").open("r+b") as file:
        file.seek(HEADER_BYTES + 8 * 7)
        file.write(struct.pack("=Q", 2**40 - 1))
    assert table.bump(7) == 2**40
    assert table.epoch(7) == 2**40


@pytest.mark.parametrize("index", [-1, 1024, 2**40])
def test_other_slots_do_not_exist(table, index):
    """An index out of range is an IndexError, never a write elsewhere."""
    with pytest.raises(IndexError, match="0 to 1023"):
        table.epoch(index)
    with pytest.raises(IndexError, match="0 to 1023"):
        table.bump(index)


def test_openers_share_the_counters(table, slots, tmp_path):
    """What one mapping counts the others see, whichever twin made it."""
    others = [module.SlotTable.open(tmp_path / "slots") for module in (_slots, _slots_reference)]
    table.bump(5)
    for place, other in enumerate(others):
        assert other.epoch(5) == 1 + place
        other.bump(5)
    assert table.epoch(5) == 3
    for other in others:
        assert (other.count, other.salt) == (1024, SALT)
        other.close()


def test_a_fork_shares_the_mapping(table):
    """A child counts in the same memory as its parent."""
    table.bump(9)
    child = os.fork()
    if child == 0:
        os._exit(0 if table.bump(9) == 2 and table.epoch(9) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert table.epoch(9) == 2


BUMP_SCRIPT = """
import sys
from memfast._native._slots import SlotTable
table = SlotTable.open(sys.argv[1])
table.bump(2)
while table.epoch(2) < 2:
    pass
for _ in range(100_000):
    table.bump(1)
"""


def test_processes_that_count_at_once_lose_nothing(tmp_path):
    """Two processes, started together, add 100,000 each."""
    table = _slots.SlotTable.create(tmp_path / "slots", 16, SALT)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BUMP_SCRIPT, str(tmp_path / "slots")]
    children = [subprocess.Popen(command, env=environ) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert table.epoch(1) == 200_000


def test_create_never_replaces_a_table(table, slots, tmp_path):
    """A second create fails, leaves no file behind and the first table as it was."""
    table.bump(3)
    with pytest.raises(FileExistsError):
        slots.SlotTable.create(tmp_path / "slots", 16, SALT)
    assert [path.name for path in tmp_path.iterdir()] == ["slots"]
    assert table.epoch(3) == 1


def test_the_file_is_private_and_allocated_in_full(table, tmp_path):
    """No hole in the file can turn a write into SIGBUS, and nobody else may read the salt."""
    status = (tmp_path / "slots").stat()
    assert status.st_size == HEADER_BYTES + 8 * 1024
    assert status.st_blocks * 512 >= status.st_size
    assert status.st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("count", "salt"), [(1, SALT), (COUNT_MAX + 1, SALT), (16, b""), (16, bytes(17))])
def test_wrong_sizes_are_refused(slots, tmp_path, count, salt):
    """Count and salt are checked before a file is made."""
    with pytest.raises(ValueError, match=r"count is|salt has"):
        slots.SlotTable.create(tmp_path / "slots", count, salt)
    assert list(tmp_path.iterdir()) == []


DAMAGES = {
    "empty": lambda data: b"",
    "short header": lambda data: data[:20],
    "magic": lambda data: b"X" + data[1:],
    "format": lambda data: data[:8] + b"\x02" + data[9:],
    "header size": lambda data: data[:12] + b"\x01" + data[13:],
    "count": lambda data: data[:16] + struct.pack("=Q", 1023) + data[24:],
    "huge count": lambda data: data[:16] + struct.pack("=Q", 2**61) + data[24:],
    "truncated": lambda data: data[:-8],
    "longer": lambda data: data + bytes(8),
    "all zero": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_refused(slots, tmp_path, damage):
    """A file that is not exactly a table is a ValueError that names it and says what to do."""
    path = tmp_path / "slots"
    slots.SlotTable.create(path, 1024, SALT).close()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"slots is not a slot table: .*; remove it"):
        slots.SlotTable.open(path)


def test_a_missing_file_is_said_to_be_missing(slots, tmp_path):
    """Nothing is created by opening."""
    with pytest.raises(FileNotFoundError):
        slots.SlotTable.open(tmp_path / "slots")
    assert list(tmp_path.iterdir()) == []


def test_siphash_matches_its_published_vectors():
    """Key 00..0f, messages 00, 00 01, …: the vectors of the reference implementation, and of the paper."""
    assert siphash24(SALT, bytes(range(15))) == 0xA129CA6149BE45E5
    assert siphash24(SALT, b"").to_bytes(8, "little").hex() == "310e0edd47db6f72"
    assert siphash24(SALT, bytes(range(16))).to_bytes(8, "little").hex() == "db9bc2577fcc2a3f"


def test_twins_agree_on_every_scope(tmp_path):
    """Both twins find the same slot, for any salt and any number of slots."""
    rng = random.Random(8)
    for place, count in enumerate((2, 3, 1000, 2**20)):
        path = tmp_path / str(place)
        native = _slots.SlotTable.create(path, count, rng.randbytes(16))
        reference = _slots_reference.SlotTable.open(path)
        for _ in range(300):
            scope_id = rng.randbytes(16)
            assert 1 <= native.index_of(scope_id) == reference.index_of(scope_id) < count


def test_scopes_spread_evenly(tmp_path):
    """No slot is the global one, and the counts are as even as chance makes them."""
    table = _slots.SlotTable.create(tmp_path / "slots", 1001, SALT)
    counts = [0] * 1001
    for number in range(200_000):
        counts[table.index_of(number.to_bytes(16, "little"))] += 1
    assert counts[0] == 0
    chi_square = sum((count - 200) ** 2 / 200 for count in counts[1:])
    assert 800 < chi_square < 1200


def test_the_salt_decides_the_slot(slots, tmp_path):
    """Who does not know the salt cannot tell which scopes share a slot."""
    tables = [slots.SlotTable.create(tmp_path / str(n), 2**20, bytes([n]) * 16) for n in range(2)]
    scopes = [bytes([n]) * 16 for n in range(50)]
    same = sum(tables[0].index_of(scope) == tables[1].index_of(scope) for scope in scopes)
    assert same <= 1


def test_a_scope_id_has_16_bytes(table):
    """Another length is a mistake."""
    for scope_id in (b"", bytes(15), bytes(17)):
        with pytest.raises(ValueError, match="16 are wanted"):
            table.index_of(scope_id)


def test_a_closed_table_is_not_touched(table):
    """After close every use is a ValueError, and a second close does nothing."""
    table.close()
    table.close()
    for use in (lambda: table.epoch(0), lambda: table.bump(0)):
        with pytest.raises(ValueError, match="closed"):
            use()
