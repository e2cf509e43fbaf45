"""Seal a directory: a SHA-256 manifest, written last, by which any later change of any file is noticed.

Array files carry no checksum of their own: Orbax restores a flipped bit without a word. The seal is plain text in
`sha256sum`'s format, so that a directory can also be checked without vitjax: `sha256sum -c seal.sha256`.
"""

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vitjax.weights.writing import fsync_directory

SEAL = "seal.sha256"
_HEADER = "# vitjax seal 1: "
_FOOTER = "# sealed "
_VERIFY_THREADS = 4


class Damaged(Exception):
    """A sealed directory is not what it was: `file` (relative to it) and `reason`."""

    def __init__(self, file: str, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


def seal(directory: Path, label: str) -> None:
    """Writes the manifest of every file under `directory`, after all of them are safe on disk.

    Order: read and fsync each file, fsync each directory, write the manifest beside its final name, fsync, rename,
    fsync. Whoever finds the manifest finds everything it lists.

    Args:
        label: what this directory is ("step 100"); `verify` demands the same one, so that a renamed copy is noticed.

    Raises:
        OSError: a file cannot be read or made safe (disk full).
        ValueError: a file is not a plain one, or its name holds a line break or backslash.
    """
    lines = [f"{_HEADER}{label}\n"]
    directories = []
    for parent, _, names in os.walk(directory):
        directories.append(Path(parent))
        for path in (directories[-1] / name for name in names):
            if path == directory / SEAL:
                continue
            relative = path.relative_to(directory).as_posix()
            if path.is_symlink() or not path.is_file() or set(relative) & set("\n\r\\"):
                raise ValueError(
                    f"cannot seal {path}: only plain files with plain names belong into a checkpoint"
                )
            lines.append(f"{_digest(path, sync=True)}  {relative}\n")
    for path in reversed(directories):
        fsync_directory(path)

    body = "".join([lines[0], *sorted(lines[1:], key=lambda line: line[66:])]).encode()
    temporary = directory / f"{SEAL}.writing"
    with open(temporary, "wb") as file:
        file.write(body + f"{_FOOTER}{hashlib.sha256(body).hexdigest()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, directory / SEAL)
    fsync_directory(directory)


def verify(directory: Path, label: str, only: Collection[str] | None = None) -> None:
    """Reads every file that the seal lists (of these, `only` the named ones) and compares.

    Raises:
        Damaged: a file changed, is missing or cannot be read, the seal itself did, or it is another directory's.
    """
    expected = _manifest(directory, label)
    if only is not None:
        for name in set(only) - set(expected):
            raise Damaged(name, "not under the seal")
        expected = {name: digest for name, digest in expected.items() if name in only}

    def check(item: tuple[str, str]) -> Damaged | None:
        name, digest = item
        path = directory / name
        try:
            if path.is_symlink() or not path.is_file():
                return Damaged(name, "missing" if not path.exists() else "not a plain file")
            if _digest(path) != digest:
                return Damaged(name, f"its {path.stat().st_size} bytes are not those that were sealed")
        except OSError as error:
            return Damaged(name, f"cannot be read ({error.strerror or error})")
        return None

    with ThreadPoolExecutor(_VERIFY_THREADS) as pool:
        for damage in pool.map(check, expected.items()):
            if damage is not None:
                raise damage


def is_sealed(directory: Path) -> bool:
    """Whether a seal is there; says nothing about whether it still holds."""
    return (directory / SEAL).is_file()


def _digest(path: Path, sync: bool = False) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
    return digest


def _manifest(directory: Path, label: str) -> dict[str, str]:
    """The digests by file name, once the seal is known to be whole and this directory's own."""
    try:
        text = (directory / SEAL).read_bytes()
    except FileNotFoundError:
        raise Damaged(SEAL, "missing") from None
    except OSError as error:
        raise Damaged(SEAL, f"cannot be read ({error.strerror or error})") from None
    body, footer = text[: -len(_FOOTER) - 65], text[-len(_FOOTER) - 65 :]
    if footer != f"{_FOOTER}{hashlib.sha256(body).hexdigest()}\n".encode():
        raise Damaged(SEAL, "its own bytes are not those that were sealed")
    header, *lines = body.decode().splitlines()
    if header != _HEADER + label:
        raise Damaged(SEAL, f"it is the seal of {header.removeprefix(_HEADER)!r}, expected {label!r}")
    return {line[66:]: line[:64] for line in lines}
