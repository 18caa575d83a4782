from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Block: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]

def unit_vector(raw: bytes) -> npt.NDArray[np.float32] | None: ...
def row_dots(
    matrix: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], query: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]: ...
def unit_sums(matrix: npt.NDArray[np.float32], texts: list[list[int]]) -> npt.NDArray[np.float32]: ...
def join_rows(
    blocks: tuple[Block, Block], rows: Sequence[int], texts: bytes, between: bytes, behind: bytes
) -> bytes: ...
