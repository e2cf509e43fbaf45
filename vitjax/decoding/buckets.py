"""Few shapes for many sizes, so that few programs are compiled.

Arrays are padded on the host to the next size of a short list, four sizes an octave, so at most a quarter is wasted;
what the padding adds is masked in the program and cut off from the result.
"""

import math
from typing import Any

import jax
import numpy as np


def bucket(size: int, *, step: int = 1, limit: int | None = None) -> int:
    """The next of 1, 2, ..., 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... a multiple of `step`, at most `limit`."""
    step = max(step, 2 ** max(0, math.floor(math.log2(size)) - 2))
    padded = step * -(-size // step)
    return padded if limit is None else max(size, min(padded, limit))


def is_spread(array: Any) -> bool:
    """Whether an array lies on several devices: it keeps the shape it has."""
    return isinstance(array, jax.Array) and len(array.sharding.device_set) > 1


def pad_rows(array: Any, rows: int) -> Any:
    """[B, ...] -> [rows, ...], the last row repeated. No copy if nothing is missing."""
    missing = rows - array.shape[0]
    if not missing:
        return array
    array = np.asarray(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def pad_columns(array: Any, columns: int, value: Any, *, left: bool = False) -> Any:
    """[B, N] -> [B, columns], filled with `value` behind, or in front if `left`. No copy if nothing is missing."""
    missing = columns - array.shape[1]
    if not missing:
        return array
    return np.pad(np.asarray(array), ((0, 0), (missing, 0) if left else (0, missing)), constant_values=value)
