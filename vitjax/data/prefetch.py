"""Batches onto the devices while the step before is still running."""

import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

Batch = dict[str, Any]
_END = object()


class DevicePrefetch:
    """Iterator of batches on the device, filled by a thread; made by `prefetch_to_device`."""

    def __init__(self, batches: Iterable[Batch], sharding: jax.sharding.Sharding | None, size: int) -> None:
        if size < 1:
            raise ValueError(f"prefetch size is {size}: expected at least 1")
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._stop = threading.Event()
        # The thread holds no reference to self, so that dropping the iterator (or leaving the program) ends it.
        weakref.finalize(self, self._stop.set)
        self._thread = threading.Thread(
            target=_fill,
            args=(batches, sharding, self._queue, self._stop),
            name="prefetch_to_device",
            daemon=True,
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if item is _END:
            self.close()
            raise StopIteration
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """End the thread and close the batches' own iterator; may be called twice."""
        self._stop.set()
        while True:  # a thread that waits for room must see that nobody will make any
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "DevicePrefetch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def prefetch_to_device(
    batches: Iterable[Batch], sharding: jax.sharding.Sharding | None = None, size: int = 2
) -> DevicePrefetch:
    """`batches` on the devices, `size` of them ahead, prepared in a thread.

    Each process hands in its own rows; with a `sharding` of the first axis they become global arrays. An error in
    `batches` is raised by the `next` it belongs to. Close it, or use it in a `with`.
    """
    return DevicePrefetch(batches, sharding, size)


def to_device(batch: Batch, sharding: jax.sharding.Sharding | None) -> Batch:
    """One batch of this process's rows as (global) arrays; None puts it on the default device."""
    if sharding is None:
        return jax.device_put(batch)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(values))
        for name, values in batch.items()
    }


def process_share(sharding: jax.sharding.Sharding, batch_size: int) -> tuple[int, int]:
    """(index, count): which of how many equal runs of a batch's rows this process must feed under `sharding`.

    They are the `process_index` and `process_count` of `train_batches`. Processes whose devices hold the same rows,
    as when a tensor axis spans them, get the same index and so read the same data.
    """
    rows = [
        index[0].indices(batch_size)[:2]
        for index in sharding.addressable_devices_indices_map((batch_size,)).values()
        if index is not None
    ]
    return _share(rows, batch_size)


def _share(rows: list[tuple[int, int]], batch_size: int) -> tuple[int, int]:
    first, end = min(start for start, _ in rows), max(stop for _, stop in rows)
    covered = {row for start, stop in rows for row in range(start, stop)}
    share = end - first
    if len(covered) != share or batch_size % share or first % share:
        raise ValueError(
            f"this process's devices hold rows {sorted(set(rows))} of {batch_size}: expected one unbroken run; "
            "order the mesh's devices by process"
        )
    return first // share, batch_size // share


def _fill(
    batches: Iterable[Batch],
    sharding: jax.sharding.Sharding | None,
    ready: "queue.Queue[Any]",
    stop: threading.Event,
) -> None:
    iterator = None
    try:
        iterator = iter(batches)
        for batch in iterator:
            if stop.is_set() or not _put(ready, to_device(batch, sharding), stop):
                return
        _put(ready, _END, stop)
    except BaseException as error:  # handed over to whoever asks for the next batch
        _put(ready, error, stop)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _put(ready: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
