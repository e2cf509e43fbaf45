"""Files that appear whole or not at all: written under another name, made safe on disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Storable(Protocol):
    """An array to be written: what `numpy.asarray` takes, with its shape and dtype known before. jax.Array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


def to_host(name: str, value: Storable, dtype: np.dtype) -> np.ndarray:
    """The value as a row-major array of `dtype`, if it is of the shape and dtype that it announced.

    Writers store an array's memory: of a transposed view that would be other numbers.
    """
    array = np.asarray(value)
    if array.shape != tuple(value.shape) or array.dtype != value.dtype:
        raise ValueError(
            f"tensor {name} came as {array.dtype}{list(array.shape)}, "
            f"expected {value.dtype}{list(value.shape)} as it said"
        )
    bits = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return np.asarray(bits, dtype, order="C")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` when the block ends, and nothing if it raises.

    Whoever finds `path` finds all of it, also after a power cut. OSError: the disk is full, or may not be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def fsync_directory(directory: Path) -> None:
    """Makes the names in `directory` (files created, renamed, removed) survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
