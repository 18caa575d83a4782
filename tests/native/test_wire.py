"""The numbers and bytes of a search: vectors of norm 1, and rows laid one behind the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfast._native import _wire, _wire_reference

NO_ROWS = (np.empty((2, 0), np.int64), np.empty(0, np.uint8))


def table(fragments: list[bytes], gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lay fragments out with a gap before each."""
    starts, data = [], b""
    for fragment in fragments:
        data += b"#" * gap
        starts.append(len(data))
        data += fragment
    ends = [start + len(fragment) for start, fragment in zip(starts, fragments, strict=True)]
    return np.array((starts, ends), np.int64).reshape(2, -1), np.frombuffer(data, np.uint8)


pieces = st.lists(st.binary(max_size=20), max_size=12)
texts_of = st.binary(max_size=8).filter(lambda text: b"," not in text)


@given(pieces, pieces, st.integers(0, 3), st.data())
@settings(max_examples=200, deadline=None)
def test_rows_are_joined_with_their_texts(wires, first, second, gap, data):
    """What comes out is what joining the pieces by hand gives, whichever table a row is of."""
    fragments = first + second
    chosen = st.lists(st.integers(0, len(fragments) - 1), max_size=15) if fragments else st.just([])
    rows = data.draw(chosen)
    texts = data.draw(st.lists(texts_of, min_size=len(rows), max_size=len(rows)))
    between, behind = data.draw(st.binary(max_size=5)), data.draw(st.binary(max_size=5))
    joined = wires.join_rows((table(first, gap), table(second)), rows, b",".join(texts), between, behind)
    assert joined == b"".join(fragments[row] + between + text + behind for row, text in zip(rows, texts, strict=True))


def test_tables_may_be_parts_of_others(wires):
    """Bounds may be rows of a larger array, in any layout, and nothing need be writable."""
    bounds, data = table([b"one", b"two", b"three"], 2)
    data.flags.writeable = False
    for order in ("C", "F"):
        wide = np.zeros((7, 3), np.int64, order=order)
        wide[5:] = bounds
        assert wires.join_rows(((wide[5:7], data), NO_ROWS), [2, 0], b"1,2", b"=", b";") == b"three=1;one=2;"


@pytest.mark.parametrize(
    ("blocks", "rows", "texts", "message"),
    [
        ((table([b"a"]),), [0], b"1", "blocks must be two"),
        ((table([b"a"]), NO_ROWS), [0], b"1,2", "1 texts with commas"),
        ((table([b"a"]), NO_ROWS), [0, 0, 0], b"1,2", "3 texts with commas"),
        ((table([b"a"]), NO_ROWS), [], b"1", "0 texts with commas"),
        ((table([b"a"]), NO_ROWS), [0, 0], b"1", "2 texts with commas"),
        ((NO_ROWS, (np.zeros((2, 1), np.int32), NO_ROWS[1])), [0], b"1", "bounds must be"),
        (((np.zeros((3, 1), np.int64), NO_ROWS[1]), NO_ROWS), [0], b"1", "bounds must be"),
        (((np.zeros(2, np.int64), NO_ROWS[1]), NO_ROWS), [0], b"1", "bounds must be"),
        (((np.zeros((2, 1), np.int64), np.zeros(4, np.int8)), NO_ROWS), [0], b"1", "data must be"),
        (((np.zeros((2, 1), np.int64), np.zeros(8, np.uint8)[::2]), NO_ROWS), [0], b"1", "data must be"),
        (((np.array([[0], [9]]), np.zeros(8, np.uint8)), NO_ROWS), [0], b"1", "bounds of row 0"),
        (((np.array([[-1], [3]]), np.zeros(8, np.uint8)), NO_ROWS), [0], b"1", "bounds of row 0"),
        (((np.array([[4], [3]]), np.zeros(8, np.uint8)), NO_ROWS), [0], b"1", "bounds of row 0"),
    ],
)
def test_wrong_tables_and_texts_are_refused(wires, blocks, rows, texts, message):
    """Another dtype, shape or number of texts is a ValueError, and no byte outside the data is ever read."""
    with pytest.raises(ValueError, match=message):
        wires.join_rows(blocks, rows, texts, b"", b"")


@pytest.mark.parametrize("row", [-1, 3, 2**62])
def test_a_row_that_is_not_there_is_refused(wires, row):
    """Neither table has it."""
    with pytest.raises(IndexError, match=f"no row {row}"):
        wires.join_rows((table([b"a", b"b"]), table([b"c"])), [row], b"1", b"", b"")


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_twins_scale_alike(values):
    """Both twins give the same bytes, and None for the same vectors."""
    raw = np.array(values, "<f4").tobytes()
    native, reference = _wire.unit_vector(raw), _wire_reference.unit_vector(raw)
    assert (native is None) == (reference is None)
    if native is not None:
        assert native.tobytes() == reference.tobytes()


@pytest.mark.parametrize("width", [1, 7, 8, 9, 256, 1000])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_a_vector_is_scaled_to_norm_one(wires, width, scale):
    """Each number is the float32 nearest to its share of the norm, as far as float64 can tell; the bytes stay as they were."""
    given_numbers = (np.random.default_rng(width).standard_normal(width) * scale).astype(np.float32)
    raw = given_numbers.tobytes()
    unit = wires.unit_vector(raw)
    assert unit.dtype == np.float32
    assert unit.flags.writeable
    exact = given_numbers.astype(np.longdouble)
    np.testing.assert_allclose(unit, (exact / np.sqrt((exact * exact).sum())).astype(np.float64), rtol=6.1e-8)
    assert raw == given_numbers.tobytes()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.0, 1e-30])
def test_what_has_no_norm_is_left_to_the_caller(wires, wrong):
    """Numbers that are not finite, and squares that vanish."""
    assert wires.unit_vector(np.full(9, wrong, "<f4").tobytes()) is None


def test_a_part_of_a_number_is_refused(wires):
    """Five bytes are no float32."""
    with pytest.raises(ValueError, match="four bytes each"):
        wires.unit_vector(b"12345")


MATRIX = np.random.default_rng(3).standard_normal((50, 24)).astype(np.float32)


@given(st.lists(st.lists(st.integers(0, 49), max_size=30), max_size=8))
@settings(max_examples=200, deadline=None)
def test_sums_of_tokens_have_norm_one(wires, texts):
    """A row is the scaled sum of its own tokens' rows, whatever stands beside it; both twins give the same bytes."""
    units = wires.unit_sums(MATRIX, texts)
    assert units.dtype == np.float32
    assert units.shape == (len(texts), 24)
    assert units.tobytes() == _wire_reference.unit_sums(MATRIX, texts).tobytes()
    for tokens, unit in zip(texts, units, strict=True):
        assert wires.unit_sums(MATRIX, [tokens])[0].tobytes() == unit.tobytes()
        exact = MATRIX[tokens].astype(np.longdouble).sum(axis=0) if tokens else np.eye(1, 24)[0]
        np.testing.assert_allclose(unit, (exact / np.sqrt((exact * exact).sum())).astype(float), atol=1e-6)


def test_many_tokens_are_added_without_the_lock(wires):
    """Thousands of tokens give what the same tokens give in the other twin; sums that vanish get the first axis."""
    tokens = np.random.default_rng(4).integers(0, 50, 3000).tolist()
    assert wires.unit_sums(MATRIX, [tokens]).tobytes() == _wire_reference.unit_sums(MATRIX, [tokens]).tobytes()
    opposite = np.array([[1, 2], [-1, -2]], np.float32)
    assert wires.unit_sums(opposite, [[0, 1], []]).tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("matrix", [MATRIX.astype(np.float64), MATRIX[:, ::2], MATRIX[0], MATRIX[:, :0].copy()])
def test_another_matrix_is_refused(wires, matrix):
    """Another dtype, layout or shape is a ValueError."""
    with pytest.raises(ValueError, match="matrix must be"):
        wires.unit_sums(matrix, [[0]])


@pytest.mark.parametrize("token", [-1, 50, 2**40])
def test_a_token_without_a_row_is_refused(wires, token):
    """No memory outside the matrix is ever read."""
    with pytest.raises(IndexError, match=f"no row {token}"):
        wires.unit_sums(MATRIX, [[0, token]])


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 257])
def test_dots_are_those_of_the_lanes_to_the_last_bit(wires, width):
    """Any rows in any order, negative products included."""
    random = np.random.default_rng(width)
    matrix, query = (random.standard_normal(shape).astype(np.float32) for shape in ((20, width), width))
    rows = random.integers(20, size=50)
    found = wires.row_dots(matrix, rows, query)
    assert found.tobytes() == _wire_reference.row_dots(matrix, rows, query).tobytes()
    assert np.allclose(found, matrix[rows].astype(np.float64) @ query, atol=1e-12)
    assert (found < 0).any()
    assert wires.row_dots(matrix, rows[:0], query).shape == (0,)


@pytest.mark.parametrize(
    ("matrix", "rows", "query", "error"),
    [
        (np.zeros((2, 3)), np.zeros(1, np.int64), np.zeros(3, np.float32), ValueError),
        (np.zeros((2, 3), np.float32), np.zeros(1, np.int32), np.zeros(3, np.float32), ValueError),
        (np.zeros((2, 3), np.float32), np.zeros(1, np.int64), np.zeros(4, np.float32), ValueError),
        (np.zeros((2, 3), np.float32), np.zeros(1, np.int64), np.zeros(6, np.float32)[::2], ValueError),
        (np.zeros((2, 3), np.float32), np.array([2]), np.zeros(3, np.float32), IndexError),
        (np.zeros((2, 3), np.float32), np.array([-1]), np.zeros(3, np.float32), IndexError),
    ],
)
def test_dots_of_what_does_not_fit_are_refused(wires, matrix, rows, query, error):
    """Types, shapes, layouts and rows."""
    with pytest.raises(error):
        wires.row_dots(matrix, rows, query)
