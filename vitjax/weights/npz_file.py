"""NumPy archives (.npz), as big_vision and vision_transformer publish their checkpoints: a zip file of .npy files.

A .npy file may hold a pickle, and a zip file may hold one name twice or far more than it seems to. Nothing is ever
unpickled here: `numpy.load` is not used, the header of each member is matched against the one form that numpy writes
for plain numbers, and everything else is refused by name. Sizes are checked against the archive before anything is
unpacked. bfloat16 is stored as big_vision does, as two bytes of no type (`V2`).
"""

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from vitjax.weights.stored import (
    BLOCK,
    MAX_TENSORS,
    check_name,
    check_shape,
    file_status,
    one_line,
    plain,
    read_part,
    require_unchanged,
    stored_dtype,
)
from vitjax.weights.tensors import TensorSpec
from vitjax.weights.writing import Storable, replacing, to_host

MAX_DIRECTORY_BYTES = 4 * 2**20
MAX_EXPANSION = 16
SMALL = 64 * 2**20
"""Members may unpack to `SMALL` + `MAX_EXPANSION` times the archive: compressed weights to little more than once."""

_MAX_HEADER_BYTES = 4_096
_HEADER = re.compile(
    rb"\{'descr': '([<>=|]?)([A-Za-z]\d*)', 'fortran_order': (True|False), "
    rb"'shape': \((|\d+,|\d+(?:, \d+)+),?\),? ?\} *\n"
)
_DTYPES = {
    **{"f2": "float16", "f4": "float32", "f8": "float64", "V2": "bfloat16", "b1": "bool"},
    **{f"i{size}": f"int{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"uint{8 * size}" for size in (1, 2, 4, 8)},
}


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    start: int
    """Of the numbers, after the .npy header."""
    dtype: str
    on_disk: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool


class NpzFile:
    """The arrays of one archive, by name; see `vitjax.weights.tensors.Tensors`.

    Whole arrays are read under zip's checksum. The archive is opened anew for each, so threads need no lock.

    Raises:
        ValueError: one line that names the file, and the array where there is one.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._status = file_status(self.path)
        self._members: dict[str, _Member] = {}
        with _damage(self.path), _opened(self.path) as archive:
            _check_sizes(archive.infolist(), self._status.st_size)
            for info in archive.infolist():
                name = check_name(info.orig_filename.removesuffix(".npy"))
                if name in self._members:
                    raise ValueError(f"array {plain(name)} is there twice")
                with _damage(f"array {plain(name)}"):
                    self._members[name] = _member(archive, info)
        self.specs: Mapping[str, TensorSpec] = {
            name: TensorSpec(member.shape, member.dtype, str(self.path))
            for name, member in self._members.items()
        }

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The array of that name, or a part of it; of a compressed one, what comes before is unpacked too."""
        member = self._members[name]
        shape = member.shape
        if member.fortran_order:  # on disk is its transpose
            shape = shape[::-1]
            whole = (slice(None),) * (len(shape) - len(index or ()))
            index = index and (*index, *whole)[::-1]
        require_unchanged(self.path, self._status)
        with (
            _damage(f"{self.path}: array {plain(name)}"),
            _opened(self.path) as archive,
            archive.open(member.info) as file,
        ):
            file.read(member.start)  # not a seek, which would give up the checksum

            def fill(buffer: memoryview, offset: int) -> None:
                file.seek(offset)
                for start in range(0, len(buffer), BLOCK):
                    piece = buffer[start : start + BLOCK]
                    if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                        raise ValueError("ends too early")

            array = read_part(fill, member.start, shape, member.dtype, index, member.on_disk)
            if index is None and file.read(1):  # and so the checksum is compared
                raise ValueError("goes on after its last number")
        return array.T if member.fortran_order else array


def write_npz(path: str | Path, arrays: Mapping[str, Storable]) -> None:
    """Writes `arrays` as numpy.savez does, uncompressed, whole or not at all; one at a time is in host memory.

    Raises:
        ValueError: a name or a dtype that this format is not written with.
        OSError: the disk is full or the file cannot be written; what was at `path` is still there.
    """
    path = Path(path)
    for name, value in arrays.items():
        check_name(name)
        if value.dtype.name not in _DTYPES.values():
            raise ValueError(f"{path}: array {plain(name)} is {value.dtype}, expected numbers")
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            dtype = value.dtype.name
            array = to_host(name, value, stored_dtype(dtype))
            if dtype in ("bfloat16", "bool"):  # numbers again, not bits
                array = array.view(value.dtype)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class _Bounded(FileIO):
    """A file that gives no more than `limit` bytes at a time, whatever a damaged directory asks for."""

    limit = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > self.limit:
            raise ValueError(f"asks for {size} bytes at once, expected at most {self.limit}; it is damaged")
        return super().read(size)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
        file.limit = 4 * BLOCK
        yield archive


@contextmanager
def _damage(where: object) -> Iterator[None]:
    """Whatever zipfile and zlib raise for a damaged archive, as a ValueError of one line."""
    try:
        yield
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
        *(ValueError, NotImplementedError, RuntimeError, OverflowError, OSError),
    ) as error:
        raise ValueError(f"{where}: {one_line(error)}") from None


def _check_sizes(members: list[zipfile.ZipInfo], archive_bytes: int) -> None:
    if len(members) > MAX_TENSORS:
        raise ValueError(f"holds {len(members)} members, expected at most {MAX_TENSORS}")
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {plain(member.orig_filename)} is encrypted or packed in an unusual way")
    stored = sum(member.file_size for member in members if member.compress_type == zipfile.ZIP_STORED)
    total = sum(member.file_size for member in members)
    if stored > archive_bytes or total > SMALL + MAX_EXPANSION * archive_bytes:
        raise ValueError(
            f"announces {total} bytes of arrays in a file of {archive_bytes}; it is damaged or a bomb"
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    if not info.orig_filename.endswith(".npy"):
        raise ValueError("is no .npy file; expected arrays alone")
    with archive.open(info) as file:
        start = file.read(12)
        if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\x01\x00", b"\x02\x00"):
            raise ValueError("has no .npy header of version 1 or 2")
        prefix, form = (10, "<H") if start[6] == 1 else (12, "<I")
        (length,) = struct.unpack(form, start[8:prefix])
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"announces a header of {length} bytes, expected at most {_MAX_HEADER_BYTES}")
        header = (start + file.read(prefix + length - len(start)))[prefix:]
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError(f"is not described as one array of numbers: {plain(header.strip())}")
    order, code, fortran_order, sizes = (group.decode() for group in match.groups())
    if code.startswith("O"):
        raise ValueError(
            "holds Python objects, that is a pickle, which vitjax does not open; "
            "where you trust its maker, store its arrays with numpy.savez"
        )
    if code not in _DTYPES:
        raise ValueError(f"has dtype {order + code}, expected one of {', '.join(_DTYPES)}")
    dtype = _DTYPES[code]
    on_disk = stored_dtype(dtype).newbyteorder(">" if order == ">" else "<")
    shape, size = check_shape([int(number) for number in re.findall(r"\d+", sizes)], on_disk.itemsize)
    data = prefix + length
    if data + size != info.file_size:
        raise ValueError(
            f"{dtype}{list(shape)} takes {size} bytes after a header of {data}, found {info.file_size}"
        )
    return _Member(info, data, dtype, on_disk, shape, fortran_order == "True")
