import threading

import numpy as np
import pytest

from vitjax.commands.transcribe import read_ahead


def test_reads_in_order_and_one_batch_ahead():
    started = []
    everything = threading.Event()

    def read(source):
        if source == "0":
            everything.wait(10)  # the first is the last to be ready
        started.append(source)
        if len(started) == 5:
            everything.set()
        return int(source)

    batches = read_ahead([str(place) for place in range(10)], read, 3)
    assert next(batches) == [0, 1, 2]
    assert set(started) <= set("012345")
    assert [*batches] == [[3, 4, 5], [6, 7, 8], [9]]


def test_stops_reading_when_nobody_asks_any_more():
    read = []
    batches = read_ahead("abcdefghij", read.append, 2)
    next(batches)
    batches.close()
    assert len(read) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]


def test_nothing_to_read():
    assert [*read_ahead([], int, 3)] == []


def test_an_error_of_ours_is_not_swallowed():
    with pytest.raises(ValueError, match="invalid literal"):
        [*read_ahead(["x"], int, 3)]


@pytest.mark.parametrize("number", [0.1, -0.38535622, 1e-9, -7.2e8, 0.0])
def test_floats_are_short_and_exact(number):
    from vitjax.commands.transcribe import _short

    value = np.float32(number)
    assert np.float32(_short(value)) == value
    assert len(str(_short(value))) <= 13
