"""Rankings are exact and the same to the byte, whichever kernel, instruction set or short cut made them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfast._native import _vectors, _vectors_reference

KINDS = ["gauss", "repeated", "grid", "close", "closest", "uneven"]


def unit_rows(kind: str, count: int, width: int, seed: int) -> np.ndarray:
    """Make unit vectors: random, few distinct, on a coarse grid, close together, or positive with few large parts."""
    rng = np.random.default_rng(seed)
    if kind == "repeated":
        rows = rng.standard_normal((3, width))[rng.integers(0, 3, count)]
    elif kind == "grid":
        rows = rng.integers(-1, 2, (count, width)).astype(float)
    elif kind in {"close", "closest"}:
        apart = 1e-4 if kind == "close" else 2e-6
        rows = np.random.default_rng(seed // 2).standard_normal(width) + apart * rng.standard_normal((count, width))
    elif kind == "uneven":
        rows = np.abs(rng.standard_normal((count, width))) ** 5
    else:
        rows = rng.standard_normal((count, width))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32).reshape(count, width)


@pytest.fixture(scope="module", params=_vectors.simd_levels())
def simd(request):
    """The compiled kernels, held to one instruction set of this machine."""
    before = _vectors.simd()
    _vectors.use_simd(request.param)
    yield _vectors
    _vectors.use_simd(before)


def ranking_cases():
    """Draw (matrix, query, k)."""
    return st.builds(
        lambda kind, count, width, seed, k: (
            unit_rows(kind, count, width, seed),
            unit_rows(kind, 1, width, seed + 1)[0],
            k,
        ),
        st.sampled_from(KINDS),
        st.integers(0, 70),
        st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 384, 1536])),
        st.integers(0, 2**20),
        st.integers(0, 90),
    )


@given(ranking_cases())
@settings(max_examples=300, deadline=None)
def test_twins_agree_to_the_byte(case):
    """Rows and scores of both twins are identical, whatever the width, the ties and k."""
    rows, scores = _vectors.top_k(*case)
    rows_py, scores_py = _vectors_reference.top_k(*case)
    assert rows.tobytes() == rows_py.tobytes()
    assert scores.tobytes() == scores_py.tobytes()


@given(ranking_cases())
@settings(max_examples=100, deadline=None)
def test_ranking_matches_the_definition(vectors, case):
    """The scores are the rounded cosines, never negative, and the order is (score falling, row rising)."""
    matrix, query, k = case
    rows, scores = vectors.top_k(matrix, query, k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float64
    assert len(rows) == len(scores) == min(k, len(matrix))
    exact = matrix.astype(np.float64) @ query.astype(np.float64)
    everything = np.maximum(exact, 0.0)
    assert np.abs(scores - everything[rows]).max(initial=0.0) <= 0.5000001e-6
    assert sorted(zip(-scores, rows, strict=True)) == list(zip(-scores, rows, strict=True))
    left_out = np.delete(everything, rows)
    if len(scores) and len(left_out):
        assert left_out.max() <= scores[-1] + 0.5000001e-6


def test_ties_go_to_the_lower_row(vectors):
    """Equal rows are ranked by their number, and negative scores are all the same zero."""
    matrix = np.array([[-1, 0], [1, 0], [0, 1], [1, 0], [-0.5, 0]], dtype=np.float32)
    rows, scores = vectors.top_k(matrix, np.array([1, 0], dtype=np.float32), 5)
    assert rows.tolist() == [1, 3, 0, 2, 4]
    assert scores.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert not np.signbit(scores).any()


def test_rounding_is_half_to_even(vectors):
    """A score exactly between two millionths goes to the even one, as numpy.round does it."""
    halves = np.array([[0.5], [1.5], [2.5], [3.5]], dtype=np.float32)
    step = np.array([2.0**-20], dtype=np.float32)
    rows, scores = vectors.top_k(halves, step, 4)
    expected = np.round(halves[:, 0].astype(np.float64) * 2.0**-20, 6)
    assert scores.tolist() == expected[rows].tolist()


def test_spare_capacity_is_not_ranked(vectors):
    """The first rows of a larger matrix can be ranked in place."""
    matrix = np.ones((8, 4), dtype=np.float32)
    assert vectors.top_k(matrix[:3], matrix[0], 10)[0].tolist() == [0, 1, 2]


def test_read_only_arrays_are_welcome(vectors):
    """A memory-mapped snapshot cannot be written, and need not be."""
    matrix = np.ones((2, 4), dtype=np.float32)
    matrix.flags.writeable = False
    assert vectors.top_k(matrix, matrix[0], 1)[0].tolist() == [0]


GOOD = np.ones((4, 6), dtype=np.float32)


@pytest.mark.parametrize(
    ("matrix", "query", "k", "message"),
    [
        (GOOD.astype(np.float64), GOOD[0], 1, "matrix must be"),
        (GOOD[:, ::2], GOOD[0, :3], 1, "matrix must be"),
        (GOOD[0], GOOD[0], 1, "matrix must be"),
        (GOOD.astype(">f4"), GOOD[0], 1, "matrix must be"),
        (GOOD.tolist(), GOOD[0], 1, "matrix must be"),
        (GOOD, GOOD, 1, "query must be"),
        (GOOD, GOOD[0].astype(np.float16), 1, "query must be"),
        (GOOD, np.ones(12, dtype=np.float32)[::2], 1, "query must be"),
        (GOOD, GOOD[0, :5], 1, "6 columns and query 5"),
        (GOOD, GOOD[0], -1, "k is -1"),
    ],
)
def test_wrong_arrays_are_refused(vectors, matrix, query, k, message):
    """Another dtype, shape, layout or a negative k is a ValueError that says what to do."""
    with pytest.raises(ValueError, match=message):
        vectors.top_k(matrix, query, k)


def mask_of(matrix: np.ndarray, seed: int, share: float) -> np.ndarray | None:
    """Make a mask that lets about this share of the rows pass; none at all above 0.9."""
    return None if share > 0.9 else np.random.default_rng(seed).random(len(matrix)) < share


masks = st.tuples(st.integers(0, 2**20), st.floats(0, 1))


@given(ranking_cases(), masks)
@settings(max_examples=200, deadline=None)
def test_scan_is_right_to_float32(vectors, case, mask):
    """A scan returns the best rows that pass, in order, as far as float32 can tell."""
    check_scan(vectors, case, mask)


@given(ranking_cases(), masks)
@settings(max_examples=100, deadline=None)
def test_scan_is_right_with_every_instruction_set(simd, case, mask):
    """The same holds for each kernel that this machine can run."""
    check_scan(simd, case, mask)


def check_scan(vectors, case, mask):
    """Compare a scan with the float64 dot products."""
    matrix, query, k = case
    mask = mask_of(matrix, *mask)
    rows, scores = vectors.scan(matrix, query, k, mask)
    passing = np.arange(len(matrix)) if mask is None else np.flatnonzero(mask)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert len(rows) == len(scores) == min(k, len(passing))
    assert set(rows) <= set(passing)
    assert sorted(zip(-scores, rows, strict=True)) == list(zip(-scores, rows, strict=True))
    exact = matrix.astype(np.float64) @ query.astype(np.float64)
    tolerance = 2e-5
    assert np.abs(scores - exact[rows]).max(initial=0.0) <= tolerance
    left_out = np.setdiff1d(passing, rows)
    if len(scores) and len(left_out):
        assert exact[left_out].max() <= scores[-1] + tolerance


@given(ranking_cases(), masks)
@settings(max_examples=200, deadline=None)
def test_int8_pass_changes_nothing(vectors, case, mask):
    """The int8 pass answers a scan to the byte."""
    check_int8(vectors, case, mask)


@given(ranking_cases(), masks)
@settings(max_examples=100, deadline=None)
def test_int8_pass_changes_nothing_with_any_instruction_set(simd, case, mask):
    """The same holds for each kernel that this machine can run."""
    check_int8(simd, case, mask)


def check_int8(vectors, case, mask):
    """Compare both ways of one scan, also for a query that is no unit vector."""
    matrix, query, k = case
    mask = mask_of(matrix, *mask)
    for wanted in (query, query * np.float32(37.5)):
        plain = vectors.scan(matrix, wanted, k, mask)
        quick = vectors.scan_int8(matrix, vectors.quantise(matrix), wanted, k, mask)
        assert plain[0].tobytes() == quick[0].tobytes()
        assert plain[1].tobytes() == quick[1].tobytes()


@given(ranking_cases(), masks, st.booleans())
@settings(max_examples=200, deadline=None)
def test_search_is_the_exact_ranking(vectors, case, mask, quick):
    """A search answers as `top_k` over the rows that pass, to the byte, with ties and zeros and all."""
    check_search(vectors, case, mask, quick)


@given(ranking_cases(), masks, st.booleans())
@settings(max_examples=200, deadline=None)
def test_search_is_the_exact_ranking_with_every_instruction_set(simd, case, mask, quick):
    """The same holds for each kernel that this machine can run."""
    check_search(simd, case, mask, quick)


def check_search(vectors, case, mask, quick):
    """Compare a search with the reference's full ranking, also for queries that are no unit vectors."""
    matrix, unit_query, k = case
    mask = mask_of(matrix, *mask)
    passing = np.arange(len(matrix)) if mask is None else np.flatnonzero(mask)
    quantised = vectors.quantise(matrix) if quick else None
    for query in (unit_query, unit_query * np.float32(0.01), unit_query * np.float32(1000)):
        places, wanted = _vectors_reference.top_k(np.ascontiguousarray(matrix[passing]), query, k)
        rows, scores = vectors.search_rows(matrix, query, k, mask=mask, quantised=quantised)
        assert rows.tolist() == passing[places].tolist()
        assert scores.tobytes() == wanted.tobytes()


def misleading_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a query that int8 holds exactly, and two rows whose codes rank them the wrong way round.

    All that rounding takes from row 0 points along the query, all that it takes from row 1 against it.
    """
    rng = np.random.default_rng(seed)
    query = rng.integers(-126, 127, 256).astype(float)
    query[0] = 127
    codes = rng.integers(-100, 100, 256).astype(float)
    codes[0] = 127
    raised = np.where(np.arange(256) % 10 > 0, np.sign(query), 0)
    raised[0] = 0
    lost = 0.49 * np.sign(query)
    lost[0] = 0
    return query, np.array([codes + lost, codes + raised - lost])


def misleading_query(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make rows that int8 holds exactly, and a query whose codes rank them the wrong way round."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], 256)
    rows = rng.integers(1, 127, (2, 256)) * signs * np.array([[1], [-1]])
    rows[:, 0] = 127
    signs[0] = 0
    apart = rows[1] - rows[0]
    start = rng.uniform(-30, 30, 256)
    wanted = 0.7 * 0.49 * np.abs(rows[:, 1:]).sum()
    query = np.rint(start + (wanted - start @ apart) / (apart @ apart) * apart)
    query[0] = 127
    return query + 0.49 * signs, rows


@pytest.mark.parametrize("mislead", [misleading_rows, misleading_query])
@pytest.mark.parametrize("seed", range(20))
def test_int8_codes_that_mislead_change_nothing(simd, mislead, seed):
    """Where rounding hides the better row as well as it can, the bounds still let it through."""
    query, rows = mislead(seed)
    query = (query / np.linalg.norm(query)).astype(np.float32)
    matrix = (rows / np.linalg.norm(rows, axis=1).max()).astype(np.float32)
    quantised = simd.quantise(matrix)
    codes, scale, _ = quantised
    query_codes, _, _ = _vectors_reference.codes_of(query[None, :])
    assert np.argmax((codes.astype(int) @ query_codes[0].astype(int)) * scale) == 1
    assert simd.scan(matrix, query, 1)[0].tolist() == [0]
    for twin in (simd, _vectors_reference):
        assert twin.scan_int8(matrix, quantised, query, 1)[0].tolist() == [0]
        assert twin.search_rows(matrix, query, 1, quantised=quantised)[0].tolist() == [0]


def test_ties_far_beyond_k_go_to_the_lowest_rows(vectors):
    """However many rows are equal, or as good as equal, the lowest numbers win."""
    rng = np.random.default_rng(5)
    query = unit_rows("gauss", 1, 256, 1)[0]
    matrix = np.repeat(query[None, :], 500, axis=0) + (1e-9 * rng.standard_normal((500, 256))).astype(np.float32)
    matrix = np.concatenate([unit_rows("gauss", 40, 256, 2), matrix, -matrix])
    for quantised in (None, vectors.quantise(matrix)):
        rows, _ = vectors.search_rows(matrix, query, 12, quantised=quantised)
        assert rows.tolist() == list(range(40, 52))
        rows, scores = vectors.search_rows(matrix, -query, 520, quantised=quantised)
        assert rows.tolist() == _vectors_reference.top_k(matrix, -query, 520)[0].tolist()
        assert scores[-1] == 0.0


def test_twins_quantise_alike():
    """Codes and scales are identical; the missing length may differ in its last bit."""
    matrix = unit_rows("gauss", 300, 256, 3)
    matrix[7] = 0
    native, reference = _vectors.quantise(matrix), _vectors_reference.quantise(matrix)
    assert native[0].tobytes() == reference[0].tobytes()
    assert native[1].tobytes() == reference[1].tobytes()
    np.testing.assert_allclose(native[2], reference[2], rtol=1e-6)


def test_codes_stand_for_their_row(vectors):
    """A row and its codes are no further apart than the residual norm says, nor much nearer."""
    matrix = unit_rows("gauss", 100, 384, 4)
    codes, scale, residual_norm = vectors.quantise(matrix)
    missed = np.linalg.norm(matrix.astype(np.float64) - codes * scale.astype(np.float64)[:, None], axis=1)
    assert codes.dtype == np.int8
    assert (np.abs(codes.astype(int)).max(axis=1) == 127).all()
    assert (missed <= residual_norm).all()
    assert (residual_norm <= missed * 1.00001).all()


def test_rows_that_are_too_long_are_refused(vectors):
    """The bounds hold for unit vectors, so quantise takes no others."""
    matrix = unit_rows("gauss", 5, 16, 6)
    matrix[3] *= 2
    with pytest.raises(ValueError, match="row 3 has the norm 2"):
        vectors.quantise(matrix)


def test_wrong_masks_and_codes_are_refused(vectors):
    """A mask or a code array of another type or length is a ValueError."""
    matrix = unit_rows("gauss", 4, 6, 7)
    codes, scale, residual_norm = vectors.quantise(matrix)
    for mask in (np.ones(3, dtype=bool), np.ones(4), [True] * 4, np.ones(8, dtype=bool)[::2]):
        with pytest.raises(ValueError, match="mask must be"):
            vectors.scan(matrix, matrix[0], 1, mask)
    for wrong, message in (
        ((codes[:3], scale, residual_norm), "codes must be"),
        ((codes.astype(np.int16), scale, residual_norm), "codes must be"),
        ((codes, scale[:3], residual_norm), "scale and residual_norm"),
        ((codes, scale, residual_norm.astype(np.float64)), "scale and residual_norm"),
    ):
        with pytest.raises(ValueError, match=message):
            vectors.scan_int8(matrix, wrong, matrix[0], 1)
        with pytest.raises(ValueError, match=message):
            vectors.search_rows(matrix, matrix[0], 1, quantised=wrong)


def test_instruction_sets_can_be_chosen(vectors):
    """Every level that is listed can be used, no other."""
    before = vectors.simd()
    for name in vectors.simd_levels():
        vectors.use_simd(name)
        assert vectors.simd() == name
    vectors.use_simd(before)
    with pytest.raises(ValueError, match="abacus"):
        vectors.use_simd("abacus")
