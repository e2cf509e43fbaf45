"""The step directories of a run: their names, their documents, and which of them is intact.

step_00000200/              sealed: what restore reads
  arrays/                   Orbax
  metadata.json             the array specs and the caller's metadata
  seal.sha256               written last
step_00000300.writing/      not finished; removed by the next writer
step_00000100.deleting/     rotated out; removed by the next writer, if by nobody else
step_00000050.damaged/      set aside by restore, never deleted
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitjax.training.seal import Damaged, is_sealed, verify
from vitjax.training.stored_arrays import Spec

METADATA = "metadata.json"
_STEP = re.compile(r"step_(\d{8,})")


def step_place(directory: Path, step: int, suffix: str = "") -> Path:
    """Where a step lives, or with a suffix, where it waits to be finished, deleted or looked at."""
    return directory / f"step_{step:08d}{suffix}"


def step_label(step: int) -> str:
    """What the seal of a step says it is."""
    return f"step {step}"


def local_directory(directory: str | os.PathLike[str]) -> Path:
    """The absolute path; a ValueError for a URL, whose store has no rename and no lock."""
    if "://" in str(directory):
        raise ValueError(
            f"{directory}: checkpoints need a file system with rename; mount the bucket and give its path"
        )
    return Path(directory).absolute()


def steps(directory: str | os.PathLike[str]) -> list[int]:
    """The sealed steps in `directory`, oldest first; [] if there is none or no directory."""
    directory = Path(directory)
    return [step for step in _named_steps(directory) if is_sealed(step_place(directory, step))]


def intact_step(directory: Path, step: int | None, report: Callable[[int, Damaged], None]) -> int:
    """The newest step (or the given one) that verifies; `report` hears of each that does not.

    Raises:
        FileNotFoundError: there is none, or none that verifies.
        ValueError: the given one is damaged.
    """
    candidates = [step] if step is not None else _named_steps(directory)[::-1]
    damaged = 0
    for candidate in candidates:
        place = step_place(directory, candidate)
        try:
            verify(place, step_label(candidate))
            return candidate
        except Damaged as damage:
            if not place.exists():  # never there, or rotated away by the writer while we read
                continue
            damaged += 1
            report(candidate, damage)
            if step is not None:
                raise ValueError(
                    f"{directory}: step {step} is damaged ({damage}); leave out the step to fall back"
                ) from None
    raise no_checkpoint(directory, step, damaged)


def no_checkpoint(directory: Path, step: int | None, damaged: int = 0) -> FileNotFoundError:
    """The error that says what is there instead of the step asked for (None: any)."""
    if step is not None:
        there = ", ".join(map(str, steps(directory))) or "none"
        return FileNotFoundError(f"{directory} holds no checkpoint of step {step}; steps there: {there}")
    if damaged:
        return FileNotFoundError(f"{directory} holds no intact checkpoint: all {damaged} are damaged")
    return FileNotFoundError(f"{directory} holds no checkpoint")


def make_document(step: int, spec: Spec, metadata: dict[str, Any]) -> str:
    """The text of metadata.json.

    Raises:
        ValueError: the metadata is not JSON, or would come back as something else (tuples, keys that are no strings).
    """
    if metadata.get("step", step) != step:
        raise ValueError(
            f'metadata["step"] is {metadata["step"]}, expected {step}; leave it out, it is added'
        )
    document = {"arrays": spec, "metadata": {**metadata, "step": step}}
    try:
        text = json.dumps(document, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata of step {step} is not JSON: {error}") from None
    if json.loads(text) != document:
        raise ValueError(
            f"the metadata of step {step} would come back changed; use lists and string keys only"
        )
    return text


def load_document(directory: Path, step: int) -> tuple[Spec, dict[str, Any]]:
    """The array specs and the metadata of a step that was verified."""
    document = json.loads((step_place(directory, step) / METADATA).read_text())
    return document["arrays"], document["metadata"]


def leftovers(directory: Path) -> list[Path]:
    """What a killed writer left half written or half deleted."""
    return [
        path
        for path in directory.iterdir()
        if _STEP.fullmatch(path.stem) and path.suffix in (".writing", ".deleting")
    ]


def _named_steps(directory: Path) -> list[int]:
    names = os.listdir(directory) if directory.is_dir() else []
    return sorted(int(match[1]) for match in map(_STEP.fullmatch, names) if match)
