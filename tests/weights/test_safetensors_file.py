import json
import os
import random
import re
import threading
import time
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.weights.safetensors_file import SafetensorsFile, write_safetensors
from vitjax.weights.stored import MAX_TENSORS
from vitjax.weights.tensors import Tensors, TensorSpec

BFLOAT16 = jnp.bfloat16.dtype
RANDOM = np.random.default_rng(0)
EVERY_DTYPE = {
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5, np.float32),
    "float64": RANDOM.normal(size=(3, 2)),
    "float32": RANDOM.normal(size=(2, 3, 4)).astype(np.float32),
    "float16": RANDOM.normal(size=5).astype(np.float16),
    "bfloat16": RANDOM.normal(size=(4, 3)).astype(BFLOAT16),
    "flags": np.array([True, False, True]),
    **{f"int{8 * size}": np.arange(-3, 3, dtype=f"i{size}") for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": np.arange(3, dtype=f"u{size}") for size in (1, 2, 4, 8)},
}
GIVEN = {"float64": np.float32, "float16": np.float32, "bfloat16": np.float32}


def file_of(path, fields, data=b""):
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tensor(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refusal(path):
    with pytest.raises(ValueError) as caught:
        SafetensorsFile(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 1_000
    return line


@pytest.mark.parametrize("library", [True, False], ids=["theirs", "ours"])
def test_every_dtype_is_read(tmp_path, library):
    path = tmp_path / "model.safetensors"
    write = safetensors.numpy.save_file if library else lambda arrays, path: write_safetensors(path, arrays)
    write(EVERY_DTYPE, path)
    tensors = SafetensorsFile(path)
    assert isinstance(tensors, Tensors)
    assert set(tensors.specs) == set(EVERY_DTYPE)
    for name, array in EVERY_DTYPE.items():
        assert tensors.specs[name] == TensorSpec(array.shape, array.dtype.name, str(path))
        found = tensors.read(name)
        assert found.dtype == GIVEN.get(array.dtype.name, array.dtype)
        np.testing.assert_array_equal(found, array.astype(found.dtype), strict=True)
        assert found.flags.writeable


def test_the_library_writes_the_same_bytes(tmp_path):
    write_safetensors(tmp_path / "ours", EVERY_DTYPE, {"format": "pt"})
    safetensors.numpy.save_file(EVERY_DTYPE, tmp_path / "theirs", {"format": "pt"})
    assert SafetensorsFile(tmp_path / "theirs").metadata == {"format": "pt"}
    ours, theirs = (safetensors.safe_open(tmp_path / name, "np") for name in ("ours", "theirs"))
    assert ours.metadata() == {"format": "pt"} == theirs.metadata()
    for name, array in EVERY_DTYPE.items():
        assert ours.get_tensor(name).tobytes() == theirs.get_tensor(name).tobytes() == array.tobytes()
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


def test_any_memory_layout_is_written_right(tmp_path):
    whole = RANDOM.normal(size=(4, 6)).astype(np.float32)
    layouts = {
        "transposed": whole.T,
        "fortran": np.asfortranarray(whole),
        "strided": whole[::2, 1::3],
        "reversed": whole[::-1],
        "broadcast": np.broadcast_to(whole[:1], (4, 6)),
        "big_endian": whole.astype(">f4"),
        "device": jnp.asarray(whole).T,
        "half": jnp.asarray(whole, jnp.bfloat16).T,
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, layouts)
    tensors, theirs = SafetensorsFile(path), safetensors.numpy.load_file(path)
    for name, array in layouts.items():
        np.testing.assert_array_equal(tensors.read(name), np.asarray(array).astype(np.float32))
        np.testing.assert_array_equal(theirs[name], np.asarray(array))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"../x": np.ones(1)}, "is no name"),
        ({"__metadata__": np.ones(1)}, "no tensor can have the name"),
        ({"x": np.ones(1, np.complex64)}, "tensor 'x' is complex64"),
        ({"x": np.array([None])}, "tensor 'x' is object"),
        ({"x": np.ones((1,) * 9)}, "at most 8 sizes"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, arrays, reason):
    with pytest.raises(ValueError, match=reason):
        write_safetensors(tmp_path / "model.safetensors", arrays)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    class Lost:
        shape, dtype = (2,), np.dtype("float32")

        def __array__(self, dtype=None, copy=None):
            raise OSError("No space left on device")

    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"x": np.ones(2)})
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(path, {"a": np.zeros(2), "x": Lost()})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_an_array_that_is_not_what_it_said_is_not_written(tmp_path):
    class Other:
        shape, dtype = (2,), np.dtype("float32")

        def __array__(self, dtype=None, copy=None):
            return np.zeros(3, np.float32)

    with pytest.raises(ValueError, match=r"tensor x came as float32\[3\], expected float32\[2\]"):
        write_safetensors(tmp_path / "model.safetensors", {"x": Other()})


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b'{"x":%s,"x":%s}', 8, "'x' is there twice"),
        (
            {"x": tensor() | {"more": 1}},
            8,
            "tensor 'x' is not described by dtype, shape and data_offsets alone",
        ),
        ({"x": {"dtype": "F32"}}, 8, "tensor 'x' is not described"),
        ({"x": 3}, 8, "tensor 'x' is not described"),
        ({"../../x": tensor()}, 8, "is no name"),
        ({"/x": tensor()}, 8, "is no name"),
        ({"": tensor()}, 8, "is no name"),
        ({"x\n": tensor()}, 8, "is no name"),
        ({"x\x00y": tensor()}, 8, "is no name"),
        ({"x\x1b[2J": tensor()}, 8, "is no name"),
        ({"x\ud800": tensor()}, 8, "is no name"),
        ({"x" * 600: tensor()}, 8, "is no name"),
        ({"x": tensor(dtype="F8_E4M3")}, 8, "dtype 'F8_E4M3', expected one of F64, "),
        ({"x": tensor(dtype=["F32"])}, 8, "dtype"),
        ({"x": tensor((1,) * 9, (0, 4))}, 4, "at most 8 sizes"),
        ({"x": tensor((-2, -1))}, 8, "at most 8 sizes"),
        ({"x": tensor((2.0,))}, 8, "expected a whole number"),
        ({"x": tensor((True, 2))}, 8, "at most 8 sizes"),
        ({"x": tensor(("2",))}, 8, "at most 8 sizes"),
        ({"x": tensor((0, 2**62), (0, 0))}, 0, "more than 128 TiB"),
        ({"x": tensor((2**62, 2**62))}, 8, "more than 128 TiB"),
        ({"x": tensor((3,))}, 8, r"'x': float32\[3\] takes 12 bytes, its data_offsets are \[0, 8\]"),
        ({"x": tensor(offsets=(8, 0))}, 8, "its data_offsets are"),
        ({"x": tensor(offsets=(-8, 0))}, 8, "its data_offsets are"),
        ({"x": tensor(offsets=(0, 8, 8))}, 8, "no lists for shape and the two"),
        ({"x": tensor(offsets=(0, True))}, 8, "its data_offsets are"),
        ({"x": tensor(), "y": tensor(offsets=(12, 20))}, 20, "'y' starts at byte 12 of the data, expected 8"),
        ({"x": tensor(), "y": tensor(offsets=(4, 12))}, 12, "'y' starts at byte 4 of the data, expected 8"),
        ({"x": tensor(), "y": tensor()}, 8, "'y' starts at byte 0 of the data, expected 8"),
        ({"x": tensor(offsets=(4, 12))}, 12, "'x' starts at byte 4 of the data, expected 0"),
        (
            {"x": tensor(), "y": tensor(offsets=(8, 16))},
            12,
            "'y' ends at byte 16 .* the file at 12; it is truncated",
        ),
        ({"x": tensor()}, 9, "holds 1 bytes after its last tensor"),
        ({"__metadata__": {"format": 1}, "x": tensor()}, 8, "__metadata__ is not an object of texts"),
        ({"__metadata__": ["pt"], "x": tensor()}, 8, "__metadata__ is not an object of texts"),
        (b"[1]", 0, "starts with"),
        (b" {}", 0, "starts with"),
        (b'{"x":NaN}', 0, "'NaN', expected a whole number"),
        (b'{"x":' + b"9" * 5_000 + b"}", 0, "cannot be read"),
        (b'{"x":"\xff"}', 0, "cannot be read"),
        (b'{"x":', 0, "cannot be read"),
        (b"{}{}", 0, "cannot be read"),
        (b'{"x":' + b"[" * 50_000, 0, "nested too deeply|cannot be read"),
    ],
)
def test_a_header_that_is_not_right_is_refused(tmp_path, header, data, reason):
    if isinstance(header, bytes) and b"%s" in header:
        header = header.replace(b"%s", json.dumps(tensor()).encode())
    line = refusal(file_of(tmp_path / "model.safetensors", header, bytes(data)))
    assert re.search(reason, line), line


def test_what_is_no_such_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        SafetensorsFile(path)
    path.symlink_to(tmp_path / "blob")
    with pytest.raises(FileNotFoundError, match="is missing .a link to .*blob"):
        SafetensorsFile(path)
    path.unlink()
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    assert "git lfs pull" in refusal(path)
    path.write_bytes(b"\x80\x04\x95 a pickle by another name")
    assert "no safetensors file" in refusal(path)
    path.unlink()
    os.mkfifo(path)  # opening one would wait for a writer for ever
    assert "not a plain file" in refusal(path)


def test_a_hundred_thousand_empty_tensors_are_refused(tmp_path):
    """The library opens them."""
    names = {str(i): tensor((0,), (0, 0)) for i in range(100_000)}
    path = file_of(tmp_path / "many.safetensors", names)
    assert len(safetensors.safe_open(path, "np").keys()) == 100_000
    assert f"more than {MAX_TENSORS} tensors" in refusal(path)
    assert "tensors, expected at most" in refusal(
        file_of(tmp_path / "more.safetensors", {str(i): 0 for i in range(MAX_TENSORS + 1)})
    )


def test_a_hostile_header_costs_little(tmp_path):
    """Neither time nor memory, whatever 8 MiB of it are made of."""
    for filler in (b"[],", b'{"":0},', b'"ab",', b"[", b"9"):
        path = file_of(tmp_path / "model.safetensors", b'{"a":[' + filler * (2**23 // len(filler) - 10))
        tracemalloc.start()
        start = time.process_time()
        refusal(path)
        assert time.process_time() - start < 5
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
        tracemalloc.stop()
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert "announces a header of" in refusal(path)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(
        path, {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.int16)}
    )
    return path


def test_truncated_at_any_byte_is_refused(small):
    content = small.read_bytes()
    for length in range(len(content)):
        small.write_bytes(content[:length])
        refusal(small)
    small.write_bytes(content + b"\0")
    refusal(small)


def test_a_flipped_bit_in_the_header_is_refused_or_harmless(small):
    """Where it makes another right header (a letter of a name), every byte still belongs to one tensor."""
    content = small.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    accepted = 0
    for position in range(len(content) - len(data)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            small.write_bytes(damaged)
            try:
                tensors = SafetensorsFile(small)
            except ValueError:
                refusal(small)
                continue
            accepted += 1
            assert sum(tensors.read(name).nbytes for name in tensors.specs) >= len(data)
    assert 0 < accepted < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.dictionaries(
    st.text(max_size=6) | st.just("__metadata__"),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "BOOL", "I64", "F8", 3]) | JSON,
            "shape": st.lists(st.integers(-1, 4), max_size=10) | JSON,
            "data_offsets": st.lists(st.integers(-4, 40), min_size=2, max_size=2) | JSON,
        }
    )
    | JSON,
    max_size=4,
)


@settings(max_examples=150)
@given(
    header=st.binary(max_size=64) | NEARLY | JSON,
    data=st.binary(max_size=40),
    length=st.integers(0, 2**64 - 1) | st.none(),
)
def test_any_header_is_right_or_refused_in_one_line(tmp_path_factory, header, data, length):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    try:
        tensors = SafetensorsFile(path)
    except ValueError:
        refusal(path)
    else:
        for name, spec in tensors.specs.items():
            assert tensors.read(name).shape == spec.shape


def test_a_file_that_changed_since_is_noticed(small):
    tensors = SafetensorsFile(small)
    write_safetensors(small, {"a.weight": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int16)})
    with pytest.raises(ValueError, match="no longer the file whose header was read"):
        tensors.read("b")


def test_threads_read_at_once(tmp_path):
    arrays = {str(i): np.full((64, 64), i, np.float32) for i in range(32)}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    tensors = SafetensorsFile(tmp_path / "x.safetensors")
    wrong = []

    def work(seed):
        for name in random.Random(seed).sample(sorted(arrays), 32):
            if not np.array_equal(tensors.read(name), arrays[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
