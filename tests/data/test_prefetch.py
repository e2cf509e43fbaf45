"""Prefetching: the same batches in the same order, errors where they belong, threads that end."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.data.prefetch import _share, prefetch_to_device, process_share


def batches(count, fail_at=None, closed=None):
    try:
        for step in range(count):
            if step == fail_at:
                raise ValueError(f"bad batch {step}")
            yield {"image": np.full((8, 2), step, np.uint8), "mask": np.ones(8, bool)}
    finally:
        if closed is not None:
            closed.set()


def sharding(data=4, tensor=2):
    devices = np.array(jax.devices()[: data * tensor]).reshape(data, tensor)
    return NamedSharding(Mesh(devices, ("data", "tensor")), PartitionSpec("data"))


def ends(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch_to_device"]


@pytest.mark.parametrize("place", [None, sharding])
def test_batches_come_in_order_on_the_device(place):
    placed = place() if place else None
    steps = []
    with prefetch_to_device(batches(5), placed) as stream:
        for batch in stream:
            assert isinstance(batch["image"], jax.Array) and batch["image"].shape == (8, 2)
            assert batch["image"].dtype == np.uint8
            if placed is not None:
                assert batch["image"].sharding.is_equivalent_to(placed, 2)
                assert batch["mask"].sharding.is_equivalent_to(placed, 1)
            steps.append(int(batch["image"][0, 0]))
        with pytest.raises(StopIteration):
            next(stream)
    assert steps == list(range(5))


def test_an_error_comes_after_the_batches_before_it_and_ends_the_stream():
    closed = threading.Event()
    stream = prefetch_to_device(batches(5, fail_at=2, closed=closed))
    assert [int(next(stream)["image"][0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="bad batch 2"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    assert closed.is_set() and ends(lambda: not workers())


def test_closing_early_ends_the_thread_and_closes_the_source():
    closed = threading.Event()
    stream = prefetch_to_device(batches(10_000, closed=closed), size=2)
    next(stream)
    stream.close()
    stream.close()
    assert closed.is_set() and not workers()
    with pytest.raises(StopIteration):
        next(stream)


def test_an_iterator_with_threads_of_its_own_is_closed_too():
    class Batches:
        closed = False

        def __iter__(self):
            return self

        def __next__(self):
            return {"image": np.zeros((8, 2), np.uint8)}

        def close(self):
            self.closed = True

    source = Batches()
    with prefetch_to_device(source) as stream:
        next(stream)
        assert not source.closed
    assert source.closed


def test_a_stream_that_is_dropped_ends_its_thread():
    stream = prefetch_to_device(batches(10_000))
    next(stream)
    del stream
    assert ends(lambda: not workers())


def test_no_more_than_size_batches_are_taken_ahead():
    taken = []

    def counted():
        for batch in batches(100):
            taken.append(1)
            yield batch

    with prefetch_to_device(counted(), size=3) as stream:
        next(stream)
        time.sleep(0.3)
        assert len(taken) <= 1 + 3 + 1


def test_one_process_feeds_every_row():
    assert process_share(sharding(), 16) == (0, 1)
    assert process_share(NamedSharding(sharding().mesh, PartitionSpec()), 16) == (0, 1)


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ([(0, 4), (4, 8)], (0, 2)),
        ([(8, 12), (12, 16)], (1, 2)),
        ([(12, 16), (12, 16)], (3, 4)),
        ([(0, 16)], (0, 1)),
    ],
)
def test_each_process_feeds_the_rows_of_its_devices(rows, share):
    assert _share(rows, 16) == share


@pytest.mark.parametrize("rows", [[(0, 4), (8, 12)], [(4, 12)]])
def test_scattered_rows_are_refused(rows):
    with pytest.raises(ValueError, match="one unbroken run"):
        _share(rows, 16)
