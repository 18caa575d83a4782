from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
Columns: TypeAlias = tuple[Int32s, Rows, npt.NDArray[np.bytes_], Mask | None]

def neighbours(base: Columns, order: Int32s, tail: Columns, rows: Rows, reach: int) -> Rows: ...
