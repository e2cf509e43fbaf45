"""Files that hold an array twice: what is tied in a model is often written under each of its names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.weights.tensors import Tensors, TensorSpec

ROWS = 4096


class WithoutCopies:
    """Tensors without those that repeat another, as transformers reads them.

    A copy that differs is no copy: it stays. Where the original is missing, the first of its copies stands for it.

    Args:
      copies: the name of a copy, and that of what it is a copy of.
    """

    def __init__(self, tensors: Tensors, copies: Mapping[str, str]):
        self._tensors = tensors
        names = {name: name for name in tensors.specs}
        for copy, original in copies.items():
            if copy not in names:
                continue
            if original not in names:
                names[original] = names.pop(copy)
            elif _equal(tensors, names[original], copy):
                del names[copy]
        self._names = names
        self.specs: Mapping[str, TensorSpec] = {name: tensors.specs[there] for name, there in names.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return self._tensors.read(self._names[name], index)


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    """Whether two arrays are the same, some rows at a time."""
    if tensors.specs[one].shape != tensors.specs[other].shape:
        return False

    def same(*index: Any) -> bool:
        return np.array_equal(tensors.read(one, index), tensors.read(other, index), equal_nan=True)

    starts = range(0, tensors.specs[one].shape[0], ROWS)
    return all(same(slice(start, start + ROWS)) for start in starts)
