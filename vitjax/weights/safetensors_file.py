"""safetensors files: eight bytes of length, a JSON header, the arrays one after another.

The format runs no code, but the `safetensors` library also reads keys given twice, names such as `../x` and a hundred
thousand empty tensors, and it writes wrong numbers for arrays that are not contiguous. So the header is checked here,
whole, before any number is read: sizes of the file, of the header and of each tensor against one another, names,
dtypes, ranks, and that the tensors follow one another without holes or overlaps up to the file's last byte. What the
library writes is read here, and the reverse; it is not needed for either.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitjax.weights.stored import (
    MAX_TENSORS,
    check_name,
    check_shape,
    file_status,
    plain,
    read_part,
    require_unchanged,
    stored_dtype,
    strict_json,
)
from vitjax.weights.tensors import TensorSpec
from vitjax.weights.writing import Storable, replacing, to_host

MAX_HEADER_BYTES = 8 * 2**20
METADATA = "__metadata__"
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)},
    **{f"U{bits}": f"uint{bits}" for bits in (64, 32, 16, 8)},
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """The arrays of one file, by name; see `vitjax.weights.tensors.Tensors`.

    metadata: the file's own words about itself ({"format": "pt"}), never needed to read it.

    Raises:
        ValueError: one line that names the file, and the tensor where there is one.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._status = status = file_status(self.path)
        try:
            with open(self.path, "rb") as file:
                self._data, header = _header(file, status.st_size)
            self.metadata, self._entries = _entries(header, status.st_size - self._data)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self.specs: Mapping[str, TensorSpec] = {
            name: TensorSpec(entry.shape, entry.dtype, str(self.path))
            for name, entry in self._entries.items()
        }

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The tensor of that name, or a part of it; opens the file anew each time, so threads need no lock."""
        entry = self._entries[name]
        with open(self.path, "rb", buffering=0) as file:

            def fill(buffer: memoryview, offset: int) -> None:
                file.seek(offset)
                while buffer:
                    count = file.readinto(buffer)
                    if not count:
                        raise ValueError(
                            f"{self.path}: ends within tensor {plain(name)}; it was cut meanwhile"
                        )
                    buffer = buffer[count:]

            require_unchanged(self.path, self._status)
            return read_part(fill, self._data + entry.start, entry.shape, entry.dtype, index)


def write_safetensors(
    path: str | Path, arrays: Mapping[str, Storable], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `arrays` as one file, whole or not at all; one of them at a time is in host memory.

    Any memory layout is stored right. transformers reads a file only if its metadata is {"format": "pt"}.

    Raises:
        ValueError: a name or a dtype that the format does not have, or too many tensors for one file.
        OSError: the disk is full or the file cannot be written; what was at `path` is still there.
    """
    path = Path(path)
    if len(arrays) > MAX_TENSORS:
        raise ValueError(f"{path}: {len(arrays)} tensors, expected at most {MAX_TENSORS} in a file")
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    # As the reference orders them: wide numbers first, so that each starts at a multiple of its own size.
    names = sorted(arrays, key=lambda name: (-_stored_dtype_of(path, name, arrays[name]).itemsize, name))
    stop = 0
    for name in names:
        if check_name(name) == METADATA:
            raise ValueError(f"{path}: no tensor can have the name {METADATA}")
        dtype = _stored_dtype_of(path, name, arrays[name])
        shape, size = check_shape([int(size) for size in arrays[name].shape], dtype.itemsize)
        start, stop = stop, stop + size
        header[name] = {
            "dtype": _CODES[arrays[name].dtype.name],
            "shape": shape,
            "data_offsets": (start, stop),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"{path}: a header of {len(text)} bytes, expected at most {MAX_HEADER_BYTES}")
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = to_host(name, arrays[name], _stored_dtype_of(path, name, arrays[name]))
            file.write(array.reshape(-1).view(np.uint8))


def _stored_dtype_of(path: Path, name: str, value: Storable) -> np.dtype:
    if value.dtype.name not in _CODES:
        raise ValueError(
            f"{path}: tensor {plain(name)} is {value.dtype}, expected one of {', '.join(sorted(_CODES))}"
        )
    return stored_dtype(value.dtype.name)


def _header(file: BinaryIO, file_bytes: int) -> tuple[int, bytes]:
    """Where the arrays begin, and the header's bytes."""
    start = file.read(8)
    if start == b"version ":
        raise ValueError("is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length < 2:
        raise ValueError(f"has no header in its {file_bytes} bytes; it is truncated or no safetensors file")
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"announces a header of {length} bytes, expected at most {MAX_HEADER_BYTES}; "
            "it is damaged or no safetensors file"
        )
    header = file.read(length)
    if len(header) < length:
        raise ValueError(
            f"announces a header of {length} bytes, but has only {file_bytes} altogether; it is truncated"
        )
    if not header.startswith(b"{"):
        raise ValueError(
            f"its header starts with {plain(header[:1])}, expected '{{'; it is no safetensors file"
        )
    return 8 + length, header


def _entries(header: bytes, data_bytes: int) -> tuple[dict[str, str], dict[str, _Entry]]:
    """Metadata and tensors of a header whose arrays take up `data_bytes`."""
    fields = strict_json(header)
    metadata = fields.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"its {METADATA} is not an object of texts")
    if len(fields) > MAX_TENSORS:
        raise ValueError(f"it describes {len(fields)} tensors, expected at most {MAX_TENSORS}")
    entries = {check_name(name): _entry(name, value) for name, value in fields.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise ValueError(
                f"tensor {plain(name)} starts at byte {entry.start} of the data, expected {end}: "
                "tensors follow one another without holes or overlaps"
            )
        if entry.stop > data_bytes:
            raise ValueError(
                f"tensor {plain(name)} ends at byte {entry.stop} of the data, the file at {data_bytes}; "
                "it is truncated, fetch it again"
            )
        end = entry.stop
    if end != data_bytes:
        raise ValueError(f"holds {data_bytes - end} bytes after its last tensor; it is damaged")
    return metadata, entries


def _entry(name: str, value: object) -> _Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {plain(name)} is not described by dtype, shape and data_offsets alone")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(
            f"tensor {plain(name)} has dtype {plain(code)}, expected one of {', '.join(_DTYPES)}"
        )
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"tensor {plain(name)} has no lists for shape and the two data_offsets")
    start, stop = offsets
    dtype = _DTYPES[code]
    try:
        sizes, size = check_shape(shape, stored_dtype(dtype).itemsize)
    except ValueError as error:
        raise ValueError(f"tensor {plain(name)}: {error}") from None
    if type(start) is not int or type(stop) is not int or start < 0 or stop - start != size:
        raise ValueError(
            f"tensor {plain(name)}: {dtype}{list(sizes)} takes {size} bytes, "
            f"its data_offsets are {plain(offsets)}"
        )
    return _Entry(dtype, sizes, start, stop)
