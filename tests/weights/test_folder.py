import json
import pickle
import re
import shlex

import numpy as np
import pytest
import safetensors

from tests.weights.pickles import Trap, check_that_it_works
from vitjax.weights.folder import INDEX, open_tensors, write_tensors
from vitjax.weights.npz_file import write_npz
from vitjax.weights.safetensors_file import write_safetensors
from vitjax.weights.tensors import Tensors

ARRAYS = {f"layer.{i}.weight": np.full((2, 3), i, np.float32) for i in range(5)}
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


@pytest.fixture
def sharded(tmp_path):
    """Two tensors in each file, one in the last."""
    write_tensors(tmp_path, ARRAYS, {"format": "pt"}, file_bytes=50)
    return tmp_path


def refusal(path):
    with pytest.raises(ValueError) as caught:
        open_tensors(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def edit_index(folder, **changes):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].update(changes.pop("weight_map", {}))
    (folder / INDEX).write_text(json.dumps(index | changes))


def test_one_file_or_several_are_one_checkpoint(sharded, tmp_path):
    assert sorted(file.name for file in sharded.iterdir()) == [*SHARDS, INDEX]
    write_safetensors(tmp_path / "one.safetensors", ARRAYS)
    write_npz(tmp_path / "one.npz", ARRAYS)
    for path in (sharded, sharded / INDEX, tmp_path / "one.safetensors", str(tmp_path / "one.npz")):
        tensors = open_tensors(path)
        assert isinstance(tensors, Tensors)
        assert set(tensors.specs) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(tensors.read(name), array)
            np.testing.assert_array_equal(tensors.read(name, (slice(1, 2),)), array[1:2])
    files = {name: open_tensors(sharded).specs[name].file for name in ARRAYS}
    assert files == {f"layer.{i}.weight": str(sharded / SHARDS[i // 2]) for i in range(5)}


def test_the_index_is_as_transformers_writes_it(sharded):
    index = json.loads((sharded / INDEX).read_text())
    assert index["metadata"] == {"total_size": 120}
    assert index["weight_map"] == {f"layer.{i}.weight": SHARDS[i // 2] for i in range(5)}
    with safetensors.safe_open(sharded / SHARDS[2], "np") as theirs:
        assert theirs.metadata() == {"format": "pt"}
        np.testing.assert_array_equal(theirs.get_tensor("layer.4.weight"), ARRAYS["layer.4.weight"])


@pytest.mark.parametrize("name", ["model.safetensors", "timm.safetensors", "B_16.npz"])
def test_a_folder_with_one_file_is_that_file(tmp_path, name):
    (write_npz if name.endswith("npz") else write_safetensors)(tmp_path / name, ARRAYS)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert open_tensors(tmp_path).specs["layer.0.weight"].file == str(tmp_path / name)


def test_links_as_in_the_cache_of_the_hub(sharded, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate([*SHARDS, INDEX]):
        (sharded / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    np.testing.assert_array_equal(open_tensors(snapshot).read("layer.3.weight"), ARRAYS["layer.3.weight"])
    (blobs / "1").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{SHARDS[1]} is missing \(a link to .*blobs/1\)"):
        open_tensors(snapshot)


def test_a_missing_file_is_named_with_its_tensor(sharded):
    (sharded / SHARDS[1]).unlink()
    assert re.search(rf"{SHARDS[1]} is missing, which {INDEX} says holds 'layer.2.weight'", refusal(sharded))


def test_a_truncated_file_is_named_with_its_tensor(sharded):
    content = (sharded / SHARDS[1]).read_bytes()
    (sharded / SHARDS[1]).write_bytes(content[:-1])
    assert re.search(rf"{SHARDS[1]}: tensor 'layer.3.weight' ends at byte 48 .* truncated", refusal(sharded))


def test_a_mixed_folder_is_refused(sharded):
    write_safetensors(sharded / SHARDS[2], {"layer.4.bias": np.ones(2)})
    assert f"{SHARDS[2]} does not hold 'layer.4.weight', which {INDEX} says it does" in refusal(sharded)
    write_safetensors(sharded / SHARDS[2], {"layer.4.weight": np.ones(2), "layer.4.bias": np.ones(2)})
    assert f"{SHARDS[2]} holds 'layer.4.bias', which {INDEX} says is nowhere" in refusal(sharded)
    write_safetensors(sharded / SHARDS[2], {"layer.4.weight": np.ones(2), "layer.0.weight": np.ones(2)})
    assert f"{SHARDS[2]} holds 'layer.0.weight', which {INDEX} says is in {SHARDS[0]}" in refusal(sharded)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/x.safetensors", "", ".", "x.bin", "a/x.safetensors", 3, None]
)
def test_an_index_that_names_other_places_is_refused(sharded, file):
    edit_index(sharded, weight_map={"layer.0.weight": file})
    assert "expected a .safetensors file of the same folder" in refusal(sharded)


def test_an_index_that_is_none_is_refused(sharded):
    edit_index(sharded, weight_map={"../x": SHARDS[0]})
    assert "is no name for a tensor" in refusal(sharded)
    for content, reason in {
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}': "'a' is there twice",
        '{"weight_map": {}}': "no weight_map",
        '{"weight_map": [1]}': "no weight_map",
        "[]": "expected an object",
        '{"weight_map"': "cannot be read",
        " " * (8 * 2**20 + 1): "larger than",
    }.items():
        (sharded / INDEX).write_text(content)
        assert str(sharded / INDEX) in refusal(sharded)
        assert reason in refusal(sharded)


PICKLES = [
    "pytorch_model.bin",
    "vit.pt",
    "vit.pth",
    "vit.pth.tar",
    "last.ckpt",
    "vit.PTH",
    "params.pkl",
    "x.pickle",
]
OTHERS = ["params.npy", "tf_model.h5", "flax_model.msgpack", "model.keras", "model.joblib"]


@pytest.mark.parametrize("name", PICKLES + OTHERS)
@pytest.mark.parametrize("transformers", [True, False], ids=["transformers", "bare"])
def test_what_is_not_opened_is_refused_with_a_command(tmp_path, name, transformers):
    mark = tmp_path / "opened"
    check_that_it_works(mark)
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["ViTModel"]}' if transformers else "{}")
    (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    for path in folder, folder / name:
        line = refusal(path)
        assert (
            line.startswith(f"{folder / name} is ")
            and ": not opened; convert it in an environment with" in line
        )
        python, option, code, source, target = shlex.split(line.split(": ", 2)[2])
        assert (python, option) == ("python", "-c")
        compile(code, "command", "exec")
        assert source in (str(folder), str(folder / name))
        assert target == str(folder) or target.endswith((".safetensors", ".npz"))
    assert not mark.exists()


def test_the_best_start_for_a_conversion_is_named_first(tmp_path):
    for name in (
        "flax_model.msgpack",
        "optimizer.pt",
        "pytorch_model.bin",
        "tf_model.h5",
        "training_args.bin",
    ):
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path).startswith(str(tmp_path / "pytorch_model.bin"))


def test_a_folder_that_says_too_little_is_refused(tmp_path):
    assert f"{tmp_path} holds no weights: expected model.safetensors" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "found config.json" in refusal(tmp_path)
    assert "config.json is no checkpoint" in refusal(tmp_path / "config.json")
    for name in "ab":
        write_npz(tmp_path / f"{name}.npz", ARRAYS)
    assert "holds 2 .npz files (a.npz, b.npz)" in refusal(tmp_path)
    for name in ("none.bin", "none.npz", "none.safetensors", "none"):
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            open_tensors(tmp_path / name)


def test_weights_are_not_written_beside_others_that_a_reader_would_take(tmp_path):
    assert [file.name for file in write_tensors(tmp_path, ARRAYS)] == ["model.safetensors"]
    write_tensors(tmp_path, ARRAYS | {"more": np.ones(1)})
    assert "more" in open_tensors(tmp_path).specs
    with pytest.raises(FileExistsError, match="model.safetensors is there already"):
        write_tensors(tmp_path, ARRAYS, file_bytes=50)
    (tmp_path / "model.safetensors").unlink()
    write_tensors(tmp_path, ARRAYS, file_bytes=50)
    with pytest.raises(FileExistsError, match=f"{SHARDS[0]} is there already"):
        write_tensors(tmp_path, ARRAYS)
