"""What the formats share: names worth trusting, JSON read strictly, and a part of a stored array read block by block.

Against: names that mean something to a path or a terminal, JSON that two readers would understand differently, numbers
chosen to make us allocate, pipes and devices in place of files, and a peak of memory above that of the part asked for.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MAX_TENSORS = 20_000
MAX_RANK = 8
MAX_TENSOR_BYTES = 2**47
BLOCK = 4 * 2**20
"""Bytes read at a time where an array cannot be read straight into its place."""

Fill = Callable[[memoryview, int], None]
"""Fills the buffer with the bytes that start at that offset."""

# How an array lies on disk and what `read` makes of it, where that is not simply the dtype itself.
_STORED = {"bfloat16": "<u2", "bool": "u1"}
_GIVEN = {"bfloat16": "float32", "float16": "float32", "float64": "float32"}


def plain(text: object) -> str:
    """`text` from a file as one short line that is safe to print."""
    shown = ascii(text)
    return shown if len(shown) <= 120 else f"{shown[:120]}..."


def one_line(error: Exception) -> str:
    """What a library's error says, as one short line that is safe to print."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()[:300]


def check_name(name: str) -> str:
    """The name of a tensor as it is, if it can neither leave a folder nor disturb a terminal; else ValueError."""
    if not name or len(name) > 512 or not name.isprintable() or ".." in name or name[0] in "/\\":
        raise ValueError(
            f"{plain(name)} is no name for a tensor: expected up to 512 printable characters, "
            "no '..', no slash in front"
        )
    return name


def check_shape(shape: Sequence[object], itemsize: int) -> tuple[tuple[int, ...], int]:
    """The shape as a tuple and its size in bytes, if both are reasonable; else ValueError."""
    sizes = tuple(size for size in shape if type(size) is int and size >= 0)
    if len(sizes) != len(shape) or len(sizes) > MAX_RANK:
        raise ValueError(f"shape {plain(shape)} is not one of at most {MAX_RANK} sizes")
    if math.prod(size or 1 for size in sizes) * itemsize > MAX_TENSOR_BYTES:
        raise ValueError(f"shape {plain(shape)} is more than {MAX_TENSOR_BYTES >> 40} TiB")
    return sizes, math.prod(sizes) * itemsize


def strict_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; ValueError for anything about which two readers could disagree.

    Refused are other values than an object, keys given twice, text that is not UTF-8, NaN, fractions, deep nesting and
    more brackets than `MAX_TENSORS` can need.
    """
    if raw.count(b"{") + raw.count(b"[") > 4 * MAX_TENSORS:
        raise ValueError(f"it describes more than {MAX_TENSORS} tensors")
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_number, parse_float=_number
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"its JSON cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"its JSON is a {type(value).__name__}, expected an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{plain(twice)} is there twice")
    return fields


def _number(text: str) -> Any:
    raise ValueError(f"found {plain(text)}, expected a whole number")


def file_status(path: Path) -> os.stat_result:
    """The status of a plain file or of a link to one, as a hub's snapshot has them.

    Raises:
        FileNotFoundError: it is missing, or what the link points to is.
        ValueError: it is a folder, a pipe or a device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        where = f" (a link to {path.readlink()})" if path.is_symlink() else ""
        raise FileNotFoundError(f"{path} is missing{where}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a plain file")
    return status


def require_unchanged(path: Path, before: os.stat_result) -> None:
    """ValueError if another file took the place of `path` since, or it was written to."""
    now = file_status(path)
    if any(
        getattr(now, field) != getattr(before, field)
        for field in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    ):
        raise ValueError(f"{path} is no longer the file whose header was read; load it again")


def stored_dtype(dtype: str) -> np.dtype:
    """The little-endian NumPy dtype of what lies on disk as `dtype`; bfloat16 as its bits."""
    return np.dtype(_STORED.get(dtype, dtype)).newbyteorder("<")


def read_part(
    fill: Fill,
    offset: int,
    shape: tuple[int, ...],
    dtype: str,
    index: tuple[slice, ...] | None,
    on_disk: np.dtype | None = None,
) -> np.ndarray:
    """A part of an array in row-major order whose first byte is at `offset`, as `Tensors.read` gives it.

    Whole rows of the leading axis are read alone; of other parts, the blocks of rows that hold them. Offsets only grow.

    on_disk: how the numbers lie there, if not as `stored_dtype(dtype)`.
    """
    slices = _slices(shape, index)
    sizes = tuple(part.stop - part.start for part in slices)
    array = np.empty(sizes, np.dtype(_GIVEN.get(dtype, dtype)))
    if array.size:
        stored = on_disk or stored_dtype(dtype)
        if not shape:  # a scalar is a row of one
            shape, slices = (1,), (slice(0, 1),)
        _read_rows(fill, offset, shape, dtype, stored, slices, array.reshape(sizes or (1,)))
    return array


def _slices(shape: tuple[int, ...], index: tuple[slice, ...] | None) -> tuple[slice, ...]:
    index = index or ()
    if len(index) > len(shape) or any(part.step not in (None, 1) for part in index):
        raise ValueError(
            f"index {index} into shape {shape}: expected at most one slice of step 1 for each axis"
        )
    bounds = [part.indices(size) for part, size in zip(index, shape, strict=False)]
    whole = [slice(0, size) for size in shape[len(index) :]]
    return (*(slice(start, max(start, stop)) for start, stop, _ in bounds), *whole)


def _read_rows(
    fill: Fill,
    offset: int,
    shape: tuple[int, ...],
    dtype: str,
    stored: np.dtype,
    index: tuple[slice, ...],
    out: np.ndarray,
) -> None:
    row = math.prod(shape[1:]) * stored.itemsize
    whole_rows = all(
        part.start == 0 and part.stop == size for part, size in zip(index[1:], shape[1:], strict=True)
    )
    if whole_rows and out.dtype == stored:
        fill(memoryview(out.reshape(-1).view(np.uint8)), offset + index[0].start * row)
        return
    if row > BLOCK and len(shape) > 1:
        for place, position in enumerate(range(index[0].start, index[0].stop)):
            _read_rows(fill, offset + position * row, shape[1:], dtype, stored, index[1:], out[place])
        return
    rows = max(1, BLOCK // row)
    for first in range(index[0].start, index[0].stop, rows):
        last = min(first + rows, index[0].stop)
        block = np.empty((last - first, *shape[1:]), stored)
        fill(memoryview(block.reshape(-1).view(np.uint8)), offset + first * row)
        place = first - index[0].start
        out[place : place + len(block)] = _numbers(block[(slice(None), *index[1:])], dtype)


def _numbers(block: np.ndarray, dtype: str) -> np.ndarray:
    """Bits as numbers; what is a number already is cast where it is put."""
    if dtype == "bfloat16":
        return (block.astype(np.uint32) << 16).view(np.float32)
    return block != 0 if dtype == "bool" else block
