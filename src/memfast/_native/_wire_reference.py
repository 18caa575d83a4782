"""What is done to the numbers and bytes of every search: the twin of `_wire.pyx`, and its type declaration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memfast._native._vectors_reference import lane_sums

__all__ = ["join_rows", "row_dots", "unit_sums", "unit_vector"]

SQUARE_MIN = 1e-50
"""In a larger sum of squares none has vanished that matters."""
BOUNDS_WANTED = "bounds must be an int64 array (2, n), of the machine's byte order"
DATA_WANTED = "data must be a C-contiguous uint8 array (bytes,)"
BLOCKS_WANTED = "blocks must be two, each a tuple (bounds, data)"
MATRIX_WANTED = "matrix must be a C-contiguous float32 array (n, d) with at least one column"
ROWS_WANTED = "rows and query must be C-contiguous arrays int64 (r,) and float32 (d,)"
SIZE_WANTED = "raw must hold float32 numbers, four bytes each"

Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]


def unit_vector(raw: bytes) -> npt.NDArray[np.float32] | None:
    """Scale a vector to norm 1.

    Args:
        raw: little-endian float32.

    Returns:
        float32 (len(raw) // 4,), its own memory; each number is divided by the norm in float64, and the norm is that of
        `_vectors_reference.lane_sums`. None where a square overflows or vanishes, or a number is not finite.

    Raises:
        ValueError: the length is not a multiple of four.
    """
    if len(raw) % 4:
        raise ValueError(SIZE_WANTED)
    given = np.frombuffer(raw, "<f4").astype(np.float32)
    with np.errstate(invalid="ignore"):
        square = float(lane_sums(given[None, :], given)[0])
    if not SQUARE_MIN < square < np.inf:
        return None
    unit: npt.NDArray[np.float32] = (given.astype(np.float64) / np.sqrt(square)).astype(np.float32)
    return unit


def row_dots(
    matrix: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], query: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the dot product of some rows with a query.

    Args:
        matrix: float32 (n, d), C-contiguous.
        rows: int64 (r,), which rows.
        query: float32 (d,).

    Returns:
        float64 (r,), neither rounded nor cut at zero; added as in `_vectors_reference.lane_sums`.

    Raises:
        ValueError: an array has another dtype, shape or layout.
        IndexError: there is no such row.
    """
    if matrix.dtype != np.float32 or matrix.ndim != 2 or not matrix.flags.c_contiguous or not matrix.shape[1]:
        raise ValueError(MATRIX_WANTED)
    fits = rows.dtype == np.int64 and query.dtype == np.float32 and rows.ndim == 1 and query.shape == matrix.shape[1:]
    if not fits or not rows.flags.c_contiguous or not query.flags.c_contiguous:
        raise ValueError(ROWS_WANTED)
    for row in rows[(rows < 0) | (rows >= len(matrix))].tolist():
        raise IndexError(no_such_row(row))
    return lane_sums(matrix[rows], query)


def unit_sums(matrix: npt.NDArray[np.float32], texts: list[list[int]]) -> npt.NDArray[np.float32]:
    """Add the rows of each text's tokens and scale the sums to norm 1.

    Args:
        matrix: float32 (n, d), C-contiguous: a row for each token.
        texts: the tokens of each text.

    Returns:
        float32 (len(texts), d). Rows are added in float64, in the order of the tokens; the sum, rounded to float32, is
        scaled as `unit_vector` does it. A text whose sum has no direction, such as one without tokens, gets the first
        axis. What stands in a row depends on its own text alone.

    Raises:
        ValueError: the matrix has another dtype, shape or layout.
        IndexError: there is no such token.
    """
    if matrix.dtype != np.float32 or matrix.ndim != 2 or not matrix.flags.c_contiguous or not matrix.shape[1]:
        raise ValueError(MATRIX_WANTED)
    units = np.zeros((len(texts), matrix.shape[1]), np.float32)
    for row, tokens in enumerate(texts):
        total = np.zeros(matrix.shape[1])
        for token in tokens:
            if not 0 <= token < len(matrix):
                raise IndexError(no_such_row(token))
            total += matrix[token]
        unit = unit_vector(total.astype("<f4").tobytes())
        units[row] = np.eye(1, matrix.shape[1], dtype=np.float32)[0] if unit is None else unit
    return units


def join_rows(blocks: tuple[Block, Block], rows: Sequence[int], texts: bytes, between: bytes, behind: bytes) -> bytes:
    """Lay the bytes of rows one behind the other, each with a text of its own.

    Args:
        blocks: two tables, rows of the second numbered on from those of the first; the bytes of row r are
            `data[bounds[0, r] : bounds[1, r]]`.
        rows: whose bytes are wanted, in this order.
        texts: as many texts as rows, with commas between them.
        between: what stands between a row's bytes and its text.
        behind: what stands behind each text.

    Raises:
        ValueError: arrays of another dtype or shape, more or fewer texts than rows, or bounds beyond the data.
        IndexError: there is no such row.
    """
    if len(blocks) != 2:
        raise ValueError(BLOCKS_WANTED)
    for bounds, data in blocks:
        if bounds.dtype != np.int64 or bounds.ndim != 2 or len(bounds) != 2:
            raise ValueError(BOUNDS_WANTED)
        if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
            raise ValueError(DATA_WANTED)
    written = texts.split(b",") if rows else []
    if len(written) != len(rows) or (not rows and texts):
        raise ValueError(texts_wanted(len(rows)))
    first = blocks[0][0].shape[1]
    pieces: list[bytes] = []
    for row, text in zip(rows, written, strict=True):
        bounds, data = blocks[0] if row < first else blocks[1]
        place = row if row < first else row - first
        if not 0 <= place < bounds.shape[1]:
            raise IndexError(no_such_row(row))
        start, end = int(bounds[0, place]), int(bounds[1, place])
        if not 0 <= start <= end <= len(data):
            raise ValueError(wrong_bounds(row))
        pieces += (data[start:end].tobytes(), between, text, behind)
    return b"".join(pieces)


def texts_wanted(count: int) -> str:
    """Say how many texts there must be."""
    return f"texts must hold {count} texts with commas between them, one for each row"


def no_such_row(row: int) -> str:
    """Say which row there is not."""
    return f"there is no row {row}"


def wrong_bounds(row: int) -> str:
    """Say whose bounds are no slice of the data."""
    return f"the bounds of row {row} are no slice of the data"
