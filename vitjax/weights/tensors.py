"""Named arrays on disk, whatever file holds them: what each is, and a slice of it at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """One array as it is on disk.

    shape: as stored.
    dtype: as stored, in numpy's name: "float32", "bfloat16", "int64".
    file: path of the file that holds it, for messages.
    """

    shape: tuple[int, ...]
    dtype: str
    file: str


@runtime_checkable
class Tensors(Protocol):
    """A checkpoint's arrays, described before any of them is read. Safe to read from several threads."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What there is, by name."""

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The array of that name, or the part of it that `index` selects, in memory of its own.

        index: a slice with step 1 for each axis, as `jax.make_array_from_callback` gives them; missing axes are whole.
        Only the bytes of the part are read, as far as the format allows. float16, bfloat16 and float64 come as float32,
        everything else as it is stored.
        KeyError: there is no such name. ValueError: the file is not what its header said, or an index has a step.
        """
