"""Checkpoints that are whole or noticed: Orbax writes the arrays, vitjax seals them.

A step directory gets its final name only after its seal is on disk, and loses it by a rename before any of it is
deleted: what is listed is whole. All processes call every method of `Checkpointer` together; process 0 seals, names
and deletes. Directories are on a POSIX file system that all processes share.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from vitjax.parallel.processes import any_process, from_primary, is_primary
from vitjax.training import stored_arrays
from vitjax.training.lock import WriterLock
from vitjax.training.seal import Damaged, seal, verify
from vitjax.training.step_directories import (
    METADATA,
    intact_step,
    leftovers,
    load_document,
    local_directory,
    make_document,
    no_checkpoint,
    step_label,
    step_place,
    steps,
)
from vitjax.training.stored_arrays import Spec
from vitjax.weights.writing import fsync_directory

_BARRIER_MILLISECONDS = 1_200_000
_log = logging.getLogger("vitjax")


class SaveFailed(RuntimeError):
    """A save in the background came to nothing; what was sealed before is untouched."""


class Checkpointer:
    """The one writer of a directory of checkpoints. Close it, or use it in a `with`.

    A program that ends without `close`, even with an error, loses the save that is still running: Python starts no
    threads at exit, and Orbax needs some.

    Args:
        directory: made if missing.
        keep: how many sealed steps stay; older ones go after a newer one is sealed.

    Raises:
        ValueError: another writer has the directory, `keep` is less than 1, or the path is a URL.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep={keep}: expected at least 1 checkpoint to keep")
        self.directory = local_directory(directory)
        self._keep = keep
        self._lock: WriterLock | None = None
        self._thread: threading.Thread | None = None
        self._failure: SaveFailed | None = None
        self._current: set[int] = set()  # steps on disk that are this run's own: saved or restored by it
        _all_processes(self._open)
        self._orbax = _orbax()

    def save(self, step: int, state: Any, metadata: dict[str, Any] | None = None) -> bool:
        """Starts saving and returns once `state` may be changed or donated; the rest happens in the background.

        Waits first for a save that is still running.

        Args:
            state: pytree of arrays (typed PRNG keys too); whatever mesh it lives on.
            metadata: JSON values that travel with it: data fingerprint, configuration, versions. "step" is added.

        Returns:
            False if this run already saved or restored this very step (nothing to do), else True.

        Raises:
            SaveFailed: the previous save failed; it is reported once, the next call saves again.
            ValueError: the step is there from another run, a leaf is no array, or `metadata` is not JSON.
        """
        self.wait()
        step = int(step)
        if step in self._current:
            return False
        if from_primary(step_place(self.directory, step).exists()):
            raise ValueError(
                f"{self.directory} already holds step {step} of another run; "
                "resume from the newest step, or write to another directory"
            )
        document = make_document(step, stored_arrays.spec_of(state), metadata or {})
        writing = step_place(self.directory, step, ".writing")
        if is_primary():
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir()
        self._orbax.save(writing / "arrays", args=ocp.args.PyTreeSave(stored_arrays.storable(state)))
        self._thread = threading.Thread(target=self._finish, args=(step, writing, document), name="seal")
        self._thread.start()
        return True

    def wait(self) -> None:
        """Returns once no save is running; raises SaveFailed if the last one failed (once)."""
        if self._thread is None:
            return
        failure = self._join()
        if any_process(failure is not None):
            raise failure or SaveFailed(
                f"a save to {self.directory} failed on another process; its message says why"
            )

    def latest_step(self) -> int | None:
        """The newest sealed step on disk."""
        return max(steps(self.directory), default=None)

    def restore(self, target: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The newest intact checkpoint (or `step`) as `(state, metadata)`; `metadata["step"]` is its step.

        Every byte is verified first. A damaged step is set aside under another name, one line of the log says so with
        file and reason, and the next older one is tried.

        Args:
            target: pytree of arrays or ShapeDtypeStructs like the state that was saved. Each array arrives with its
                target's sharding; the mesh may be another than the one it was saved from.

        Raises:
            FileNotFoundError: there is no checkpoint, or none that is intact.
            ValueError: `step` is given and damaged, or shapes, dtypes or names of arrays differ from the target's.
        """
        self.wait()
        chosen = _all_processes(lambda: intact_step(self.directory, step, self._set_aside))
        state, metadata = _read(self._orbax, self.directory, chosen, target, None)
        self._current = {chosen}
        return state, metadata

    def close(self) -> None:
        """Waits for the running save and lets the next writer in; raises SaveFailed if that save failed."""
        failure = (
            self._join()
        )  # no word with the others: this may be the way out of an error that only we have
        self._orbax.close()
        if self._lock is not None:
            self._lock.release()
        if failure is not None:
            raise failure

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except SaveFailed as failure:
            if kind is None:
                raise
            _log.error("%s", failure)  # the error that ends the program comes first

    def _open(self) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(self.directory)
        for leftover in leftovers(self.directory):
            shutil.rmtree(leftover, ignore_errors=True)
        return 0

    def _join(self) -> SaveFailed | None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        return failure

    def _finish(self, step: int, writing: Path, document: str) -> None:
        """In the background: wait for Orbax, seal, give the final name, rotate."""
        try:
            self._orbax.wait_until_finished()
            try:
                if is_primary():
                    (writing / METADATA).write_text(document)
                    seal(writing, step_label(step))
                    os.rename(writing, step_place(self.directory, step))
                    fsync_directory(self.directory)
            finally:
                ocp.multihost.get_barrier_sync_fn()(key=f"sealed_{step}", timeout_ms=_BARRIER_MILLISECONDS)
        except Exception as error:
            self._failure = SaveFailed(f"step {step} was not saved to {self.directory}: {error}")
            self._failure.__cause__ = error
            if is_primary():
                shutil.rmtree(writing, ignore_errors=True)  # a full disk needs the room
            return
        self._current.add(step)
        if is_primary():
            self._rotate()

    def _rotate(self) -> None:
        for step in steps(self.directory)[: -self._keep]:
            going = step_place(self.directory, step, ".deleting")
            try:
                os.rename(step_place(self.directory, step), going)
                fsync_directory(self.directory)
                shutil.rmtree(going)
            except OSError as error:
                _log.warning("%s: old step %d could not be removed: %s", self.directory, step, error)

    def _set_aside(self, step: int, damage: Damaged) -> None:
        place = step_place(self.directory, step)
        aside, count = step_place(self.directory, step, ".damaged"), 1
        while aside.exists():
            count += 1
            aside = step_place(self.directory, step, f".damaged-{count}")
        os.rename(place, aside)
        fsync_directory(self.directory)
        _log.warning("%s: step %d is damaged (%s), set aside as %s", self.directory, step, damage, aside.name)


def restore(
    directory: str | os.PathLike[str],
    target: Any = None,
    *,
    step: int | None = None,
    only: Collection[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint without being its writer: for inference, evaluation, inspection.

    Like `Checkpointer.restore`, but takes no lock and renames nothing, so that it can be used beside a running
    training: damaged steps are reported and passed over.

    Args:
        target: as there; None gives nested dicts of NumPy arrays.
        only: top-level names of the state, e.g. ("params", "stats", "ema"); the rest (the optimizer) is neither read
            nor need it be known. Names that the state does not have are left out.
    """
    directory = local_directory(directory)

    def report(step: int, damage: Damaged) -> None:
        _log.warning("%s: step %d is damaged (%s), passed over", directory, step, damage)

    chosen = _all_processes(lambda: intact_step(directory, step, report))
    reader = _orbax()
    try:
        return _read(reader, directory, chosen, target, only)
    finally:
        reader.close()


def describe(directory: str | os.PathLike[str], step: int | None = None) -> tuple[Spec, dict[str, Any]]:
    """The array specs by path and the metadata of the newest sealed step (or `step`), without reading arrays.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: its seal or its metadata is damaged.
    """
    directory = local_directory(directory)
    chosen = max(steps(directory), default=None) if step is None else step
    if chosen is None or not step_place(directory, chosen).exists():
        raise no_checkpoint(directory, step)
    try:
        verify(step_place(directory, chosen), step_label(chosen), only=(METADATA,))
    except Damaged as damage:
        raise ValueError(f"{directory}: step {chosen} is damaged ({damage})") from None
    return load_document(directory, chosen)


def _read(
    reader: ocp.AsyncCheckpointer, directory: Path, step: int, target: Any, only: Collection[str] | None
) -> tuple[Any, dict[str, Any]]:
    stored, metadata = load_document(directory, step)
    stored = stored_arrays.selected(stored, only)
    if target is not None:
        stored_arrays.require_same(stored, stored_arrays.spec_of(target), f"{directory} step {step}")
    return stored_arrays.read(reader, step_place(directory, step) / "arrays", stored, target), metadata


class _RaisedAnyway(logging.Filter):
    """Orbax logs a failed save three times, with 200 lines of traceback; SaveFailed carries it once."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno != logging.ERROR or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_RaisedAnyway())


def _orbax() -> ocp.AsyncCheckpointer:
    # Compression saves 7 % of float32 weights and costs three times the processor time, four times that of reading.
    return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))


def _all_processes(action: Callable[[], int]) -> int:
    """Runs `action` on process 0; its result on every process, or an error on every process."""
    result, failure = 0, None
    if is_primary():
        try:
            result = action()
        except Exception as error:
            failure = error
    if any_process(failure is not None):
        raise failure or RuntimeError("process 0 could not use the checkpoints; its message says why")
    return from_primary(result)
