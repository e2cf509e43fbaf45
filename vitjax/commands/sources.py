"""What the command line names: image files, folders and patterns; lines of text."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def find_images(arguments: Iterable[str]) -> list[str]:
    """Image files of the arguments, in the order of the arguments, each file once.

    A file is taken whatever its name. A folder gives the images in it and below it, a pattern (`*`, `?`, `[...]`, and
    `**` for any depth) those it matches, both known by their suffix, without hidden ones and in natural order: page2
    before page10.

    Raises:
      ValueError: an argument that is not there, matches nothing, or holds no image.
      OSError: a folder that cannot be read.
    """
    found: dict[str, str] = {}  # by absolute path: a folder and a file in it may both be given
    for argument in arguments:
        for name in _images_of(argument):
            found.setdefault(os.path.abspath(name), name)
    return list(found.values())


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file, each once and in its order, without the empty ones.

    Raises:
      ValueError: it is no UTF-8 text, or has no line.
      OSError: it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}): expected one source a line") from None
    if not any(lines):
        raise ValueError(f"{path} has no text: expected one source a line")
    return list(dict.fromkeys(filter(None, lines)))


def natural_order(name: str) -> tuple[object, ...]:
    """Sorts paths folder by folder, and numbers in names by their value."""
    parts = [re.split(r"(\d+)", part) for part in Path(name).parts]
    values = [[(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in part] for part in parts]
    return values, name


def _images_of(argument: str) -> list[str]:
    if os.path.isdir(argument):
        images = sorted(_in_folder(argument), key=natural_order)
        if not images:
            raise ValueError(f"{argument} holds no image: expected files that end in {', '.join(SUFFIXES)}")
        return images
    if os.path.lexists(argument):
        return [argument]
    if not glob.has_magic(argument):
        raise ValueError(f"{argument}: no such file or folder")
    matches = glob.glob(argument, recursive=True)
    folders = [] if "**" in argument else [name for name in matches if os.path.isdir(name)]
    images = [name for name in matches if _is_image(name)]
    images += [name for folder in folders for name in _in_folder(folder)]
    if not images:
        number = f"{len(matches):,} files and folders with no image" if matches else "nothing"
        raise ValueError(f"{argument} matches {number}: expected files that end in {', '.join(SUFFIXES)}")
    return sorted(images, key=natural_order)


def _in_folder(folder: str) -> Iterator[str]:
    for place, inner, names in os.walk(folder, onerror=_raise):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            path = os.path.join(place, name)
            if not name.startswith(".") and _is_image(path):
                yield path


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not os.path.isdir(path)


def _raise(error: OSError) -> None:
    raise error
