from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Keys: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Float64s: TypeAlias = npt.NDArray[np.float64]
Ids: TypeAlias = npt.NDArray[np.bytes_]
Mask: TypeAlias = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
Masks: TypeAlias = tuple[Mask | None, Mask | None]
Inverted: TypeAlias = tuple[Keys, Int32s, Int32s, npt.NDArray[np.uint8], Int32s]
Forward: TypeAlias = tuple[Keys, Rows]

class Scored:
    def scores_of(self, rows: Rows) -> Float64s: ...
    def frequencies(self) -> Rows: ...

def rank_terms(
    base: Inverted,
    tail: Forward,
    wanted: Keys,
    weights: Float64s,
    k: int,
    *,
    ids: tuple[Ids, Ids],
    live: Masks = (None, None),
    passing: Masks = (None, None),
    total: tuple[int, int],
) -> tuple[Rows, Scored]: ...
def count_terms(base: Inverted, tail: Forward, wanted: Keys, *, live: Masks = (None, None)) -> Rows: ...
