import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.weights import stored
from vitjax.weights.npz_file import NpzFile, write_npz
from vitjax.weights.safetensors_file import SafetensorsFile, write_safetensors
from vitjax.weights.stored import read_part, stored_dtype

DTYPES = ["float64", "float32", "float16", "bfloat16", "bool", "int8", "uint16", "int64"]


@st.composite
def parts(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    rank = draw(st.integers(0, len(shape)))
    bound = st.none() | st.integers(-6, 6)
    return shape, tuple(
        slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1]))) for _ in range(rank)
    )


@given(
    part=parts(), dtype=st.sampled_from(DTYPES), block=st.sampled_from([1, 24, 4096]), fortran=st.booleans()
)
def test_a_part_is_what_numpy_selects(tmp_path_factory, part, dtype, block, fortran):
    """At any size of the blocks in which the file is read, in each format and on disk in either order."""
    shape, index = part
    numbers = np.random.default_rng(len(shape)).integers(0, 3, shape)
    array = np.asarray(numbers).astype(jnp.bfloat16.dtype if dtype == "bfloat16" else dtype)
    folder = tmp_path_factory.getbasetemp()
    write_safetensors(folder / "part.safetensors", {"before": np.ones(3), "x": array})
    named = {"before": np.ones(3), "x": np.asarray(array, order="F" if fortran else "C")}
    (np.savez_compressed if block == 24 else np.savez)(folder / "part.npz", **named)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "BLOCK", block)
        for tensors in SafetensorsFile(folder / "part.safetensors"), NpzFile(folder / "part.npz"):
            found = tensors.read("x", index)
            np.testing.assert_array_equal(found, array[index].astype(found.dtype), strict=True)


def counting(array):
    """A `fill` over an array's bytes that notes what was asked for."""
    content, asked = array.tobytes(), []

    def fill(buffer, offset):
        asked.append((offset, len(buffer)))
        buffer[:] = content[offset : offset + len(buffer)]

    return fill, asked


def test_only_the_rows_asked_for_are_read():
    array = np.arange(1024 * 16, dtype=np.float32).reshape(1024, 16)
    fill, asked = counting(array)
    found = read_part(fill, 0, array.shape, "float32", (slice(256, 512), slice(None)))
    np.testing.assert_array_equal(found, array[256:512])
    assert asked == [(256 * 64, 256 * 64)]


def test_columns_are_read_block_by_block(monkeypatch):
    monkeypatch.setattr(stored, "BLOCK", 4_096)
    array = np.arange(1024 * 16, dtype=np.float32).reshape(1024, 16)
    fill, asked = counting(array)
    found = read_part(fill, 0, array.shape, "float32", (slice(None), slice(4, 8)))
    np.testing.assert_array_equal(found, array[:, 4:8])
    assert asked == [(offset, 4_096) for offset in range(0, 65_536, 4_096)]


def test_one_huge_row_is_not_read_whole(monkeypatch):
    """Positions are stored as [1, P, D], stacked experts as [L, D, F]: the leading axis need not be the long one."""
    monkeypatch.setattr(stored, "BLOCK", 4_096)
    array = np.arange(2 * 512 * 16, dtype=np.float16).reshape(2, 512, 16)
    fill, asked = counting(array)
    found = read_part(fill, 0, array.shape, "float16", (slice(1, 2), slice(128, 256)))
    np.testing.assert_array_equal(found, array[1:2, 128:256].astype(np.float32))
    assert asked == [((512 + 128) * 32, 4_096)]


def test_bfloat16_is_exact():
    every = np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16.dtype)
    fill, _ = counting(every)
    found = read_part(fill, 0, every.shape, "bfloat16", None)
    np.testing.assert_array_equal(found, every.astype(np.float32))
    assert found.view(np.uint32).tolist() == [bits << 16 for bits in range(2**16)]


@pytest.mark.parametrize("index", [(slice(0, 2, 2),), (slice(None, None, -1),), (slice(None),) * 3])
def test_an_index_that_is_no_part_is_refused(index):
    with pytest.raises(ValueError, match="expected at most one slice of step 1 for each axis"):
        read_part(lambda *_: None, 0, (2, 2), "float32", index)


def test_bits_on_disk_are_little_endian():
    forms = {"float32": "<f4", "bfloat16": "<u2", "bool": "|u1", "int64": "<i8"}
    assert {dtype: stored_dtype(dtype).str for dtype in forms} == forms


def test_both_formats_refuse_a_name_that_is_not_there(tmp_path):
    write_npz(tmp_path / "x.npz", {"x": np.ones(2)})
    write_safetensors(tmp_path / "x.safetensors", {"x": np.ones(2)})
    for tensors in NpzFile(tmp_path / "x.npz"), SafetensorsFile(tmp_path / "x.safetensors"):
        with pytest.raises(KeyError, match="y"):
            tensors.read("y")
