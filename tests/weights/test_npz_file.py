import io
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.weights.pickles import Trap, check_that_it_works
from vitjax.weights import npz_file
from vitjax.weights.npz_file import NpzFile, write_npz
from vitjax.weights.tensors import Tensors, TensorSpec

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "params/head/kernel": RANDOM.normal(size=(4, 3)).astype(np.float32),
    "params/head/bias": np.zeros(3, np.float32),
    "half": RANDOM.normal(size=(2, 5)).astype(jnp.bfloat16.dtype),
    "float16": RANDOM.normal(size=3).astype(np.float16),
    "double": RANDOM.normal(size=(2, 2)),
    "step": np.array(7),
    "flags": np.array([True, False]),
    "bytes": np.arange(4, dtype=np.uint8),
    "none": np.zeros((0, 2), np.float32),
}


def npy(header, data=b"", version=b"\x01\x00"):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def described(descr="'<f4'", shape="(2,)", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def refusal(path):
    with pytest.raises(ValueError) as caught:
        NpzFile(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 1_000
    return line


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, None], ids=["savez", "compressed", "ours"])
def test_every_dtype_is_read(tmp_path, write):
    path = tmp_path / "model.npz"
    if write is None:
        write_npz(path, ARRAYS)
    else:
        write(path, **ARRAYS)
    tensors = NpzFile(path)
    assert isinstance(tensors, Tensors)
    assert list(tensors.specs) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors.specs[name] == TensorSpec(array.shape, array.dtype.name, str(path))
        found = tensors.read(name)
        expected = (
            array.astype(np.float32) if array.dtype.name in ("bfloat16", "float16", "float64") else array
        )
        np.testing.assert_array_equal(found, expected, strict=True)
        assert found.flags.writeable


def test_numpy_writes_the_same_bytes(tmp_path):
    write_npz(tmp_path / "ours.npz", ARRAYS)
    np.savez(tmp_path / "theirs.npz", **ARRAYS)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def test_any_memory_layout_is_read_and_written_right(tmp_path):
    whole = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
    layouts = {
        "fortran": np.asfortranarray(whole),
        "strided": whole[:, ::2],
        "big_endian": whole.astype(">f4"),
    }
    np.savez(tmp_path / "theirs.npz", **layouts)
    write_npz(tmp_path / "ours.npz", {**layouts, "device": jnp.asarray(whole)})
    for tensors in NpzFile(tmp_path / "ours.npz"), NpzFile(tmp_path / "theirs.npz"):
        for name, array in layouts.items():
            np.testing.assert_array_equal(tensors.read(name), array)
            np.testing.assert_array_equal(tensors.read(name, (slice(1, 2),)), array[1:2])
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as theirs:
        np.testing.assert_array_equal(theirs["device"], whole)
        np.testing.assert_array_equal(theirs["big_endian"], whole)


def test_objects_are_refused_without_being_opened(tmp_path):
    mark = tmp_path / "opened"
    check_that_it_works(mark)
    path = tmp_path / "model.npz"
    np.savez(path, weights=np.ones(2), config=np.array([Trap(mark)], dtype=object))
    line = refusal(path)
    assert "array 'config': holds Python objects, that is a pickle" in line and "numpy.savez" in line
    archive(path, [("a.npy", npy(described(), bytes(8))), ("data.pkl", b"\x80\x04.")])
    assert "array 'data.pkl': is no .npy file" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (npy(described("'|O'"), bytes(8)), "Python objects"),
        (npy(described("'<U4'"), bytes(32)), "dtype <U4, expected one of"),
        (npy(described("'<c8'"), bytes(16)), "dtype <c8"),
        (npy(described("'<M8[ns]'"), bytes(16)), "not described as one array of numbers"),
        (npy(described("[('a', '<f4')]"), bytes(8)), "not described as one array of numbers"),
        (npy(described("__import__('os').getpid()"), bytes(8)), "not described as one array of numbers"),
        (npy(described(shape="(-2,)"), bytes(8)), "not described as one array of numbers"),
        (npy(described(shape="[2]"), bytes(8)), "not described as one array of numbers"),
        (npy(described(shape="(" + "1, " * 8 + "1)"), bytes(4)), "at most 8 sizes"),
        (npy(described(shape="(0, 99999999999999999999)")), "more than 128 TiB"),
        (npy(described(shape="(3,)"), bytes(8)), r"float32\[3\] takes 12 bytes after a header of \d+, found"),
        (npy(described(), bytes(9)), r"float32\[2\] takes 8 bytes"),
        (npy(described(), bytes(8), b"\x03\x00"), "no .npy header of version 1 or 2"),
        (npy(described() + " " * 5_000, bytes(8)), "announces a header of"),
        (npy("(" * 2_000), "not described as one array of numbers"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "announces a header of 4294967295 bytes"),
        (b"\x93NUMPY\x01\x00", "buffer"),
        (b"\x80\x04\x95", "no .npy header"),
        (b"", "no .npy header"),
    ],
)
def test_a_member_that_is_no_array_of_numbers_is_refused(tmp_path, member, reason):
    line = refusal(
        archive(tmp_path / "model.npz", [("good.npy", npy(described(), bytes(8))), ("x.npy", member)])
    )
    assert "array 'x': " in line
    with pytest.raises(ValueError, match=reason):
        NpzFile(tmp_path / "model.npz")


def test_headers_of_both_versions_are_read(tmp_path):
    member = npy(described(shape="(2, 1)"), np.ones(2, np.float32).tobytes(), b"\x02\x00")
    path = archive(
        tmp_path / "model.npz", [("x.npy", member), ("scalar.npy", npy(described(shape="()"), bytes(4)))]
    )
    tensors = NpzFile(path)
    np.testing.assert_array_equal(tensors.read("x"), np.ones((2, 1), np.float32), strict=True)
    assert tensors.read("scalar").shape == ()


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", ".npy", "x\x00.npy", "a\nb.npy", "\x1b[2J.npy"])
def test_names_that_are_no_names_are_refused(tmp_path, name):
    path = tmp_path / "model.npz"
    archive(path, [("a" * len(name.encode()), npy(described(), bytes(8)))])
    path.write_bytes(path.read_bytes().replace(b"a" * len(name.encode()), name.encode()))
    assert "is no name for a tensor" in refusal(path)


def test_a_name_given_twice_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    archive(path, [("x.npy", npy(described(), bytes(8))), ("y.npy", npy(described(), bytes(8)))])
    path.write_bytes(path.read_bytes().replace(b"y.npy", b"x.npy"))
    assert "array 'x' is there twice" in refusal(path)


def test_bombs_are_refused_before_they_go_off(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    members = [(f"{i}.npy", npy(described(shape="(4000000,)"), bytes(16_000_000))) for i in range(6)]
    archive(path, members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 150_000
    monkeypatch.setattr(npz_file, "_member", None)  # nothing is unpacked
    assert "announces 96000" in refusal(path) and "a bomb" in refusal(path)

    archive(path, [("x.npy", npy(described(), bytes(8)))])
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: entry + 24] + struct.pack("<I", 2**31) + content[entry + 28 :])
    assert "announces 2147483648 bytes of arrays" in refusal(path)
    archive(path, [("x.npy", npy(described(), bytes(8)))], zipfile.ZIP_LZMA)
    assert "packed in an unusual way" in refusal(path)


def test_a_huge_directory_is_not_read(tmp_path):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(120):
            file.writestr(zipfile.ZipInfo(f"{i}.npy"), b"")
            file.filelist[-1].comment = bytes(60_000)
    assert "asks for 7" in refusal(path)


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def small(request, tmp_path):
    values = np.arange(6, dtype=np.float32)
    members = [
        ("a.npy", npy(described(shape="(2, 3)"), values.tobytes())),
        ("b.npy", npy(described("'<i4'"), bytes(8))),
    ]
    return archive(tmp_path / "model.npz", members, request.param)


def read_all(path):
    tensors = NpzFile(path)
    return {name: tensors.read(name) for name in tensors.specs}


def one_line_or_right(path, expected):
    """Whether it was read at all; if so, every array is what was written, under some name."""
    try:
        found = read_all(path)
    except ValueError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return False
    assert {array.tobytes() for array in found.values()} <= expected
    return True


def test_truncated_at_any_byte_is_refused(small):
    content = small.read_bytes()
    for length in range(len(content)):
        small.write_bytes(content[:length])
        refusal(small)


def test_a_flipped_bit_anywhere_is_refused_or_harmless(small):
    content = small.read_bytes()
    expected = {array.tobytes() for array in read_all(small).values()}
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position * 7 % 8)
        small.write_bytes(damaged)
        refused += not one_line_or_right(small, expected)
    assert refused > len(content) / 2


def test_what_zipfile_says_of_damage_is_short(tmp_path):
    """It repeats the name in front of a member as it is, here of a thousand bytes."""
    path = archive(tmp_path / "model.npz", [("x.npy", npy(described(shape="(500,)"), bytes(2_000)))])
    content = bytearray(path.read_bytes())
    content[26:28] = struct.pack("<H", 1_000)
    path.write_bytes(content)
    assert "array 'x': File name in directory" in refusal(path)


@given(
    damage=st.lists(st.tuples(st.integers(0, 999), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
)
def test_any_damage_is_refused_in_one_line_or_harmless(tmp_path_factory, damage):
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(6, dtype=np.float32), b=np.zeros(2, np.int32))
    content = bytearray(file.getvalue())
    for position, piece in damage:
        position %= len(content)
        content[position : position + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    path.write_bytes(content)
    try:
        read_all(path)
    except ValueError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()


def test_the_checksum_is_compared(tmp_path):
    path = tmp_path / "model.npz"
    numbers = np.arange(5_000, dtype=np.float32)
    np.savez(path, x=numbers)
    content = path.read_bytes()
    place = content.index(numbers.tobytes()) + 16_000
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with pytest.raises(ValueError, match="model.npz: array 'x': Bad CRC-32"):
        NpzFile(path).read("x")


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    for arrays in {"../x": np.ones(1)}, {"x": np.array([None])}, {"x": np.array(["a"])}:
        with pytest.raises(ValueError, match="is no name|expected numbers"):
            write_npz(tmp_path / "model.npz", arrays)
    assert not list(tmp_path.iterdir())


def test_a_file_that_changed_since_is_noticed(small):
    tensors = NpzFile(small)
    write_npz(small, {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int32)})
    with pytest.raises(ValueError, match="no longer the file whose header was read"):
        tensors.read("a")
