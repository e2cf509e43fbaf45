import numpy as np
import pytest

from tests.weights.test_table import InMemory
from vitjax.weights import copies
from vitjax.weights.copies import WithoutCopies

TABLE = np.arange(12, dtype=np.float32).reshape(6, 2)


def seen(arrays, **pairs):
    view = WithoutCopies(InMemory(arrays), pairs)
    return {name: view.read(name).tolist() for name in view.specs}


@pytest.mark.parametrize("rows", [4, 4096])
def test_a_copy_is_left_out_and_another_array_is_not(rows, monkeypatch):
    monkeypatch.setattr(copies, "ROWS", rows)
    other = TABLE.copy()
    other[5, 1] += 1
    arrays = {"shared": TABLE, "head": TABLE.copy(), "encoder": other, "short": TABLE[:5], "rest": TABLE[0]}
    got = seen(arrays, head="shared", encoder="shared", short="shared", absent="shared")
    assert got == {name: arrays[name].tolist() for name in ("shared", "encoder", "short", "rest")}


def test_a_copy_stands_for_an_original_that_is_missing():
    other = TABLE + 1
    assert seen({"head": TABLE, "encoder": TABLE}, head="shared", encoder="shared") == {
        "shared": TABLE.tolist()
    }
    assert seen({"head": TABLE, "encoder": other}, head="shared", encoder="shared") == {
        "shared": TABLE.tolist(),
        "encoder": other.tolist(),
    }


def test_parts_are_read_by_the_new_name():
    tensors = InMemory({"head": TABLE})
    view = WithoutCopies(tensors, {"head": "shared"})
    np.testing.assert_array_equal(view.read("shared", (slice(1, 3), slice(0, 1))), TABLE[1:3, :1])
    assert tensors.reads == [("head", (slice(1, 3), slice(0, 1)))]
