"""What was read is written again bit for bit: in its own format, and through both of ours."""

import json

import numpy as np
import pytest

import vitjax
from tests.weights.golden_cases import WEIGHTS, GoldenCase, case_names
from vitjax.parallel.paths import named_leaves
from vitjax.weights.checkpoint import open_checkpoint
from vitjax.weights.folder import open_tensors


def same_arrays(model, other):
    ours, theirs = (named_leaves({"params": m.params, "stats": m.stats}) for m in (model, other))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.asarray(array).tobytes() == np.asarray(theirs[name]).tobytes(), name


@pytest.mark.parametrize("name", case_names())
def test_every_format(name, tmp_path):
    case = GoldenCase.open(WEIGHTS / name)
    model = vitjax.load(case.path)
    checkpoint = open_checkpoint(case.path)
    notes = vitjax.save(model, tmp_path / "theirs", format=checkpoint.family.format)
    assert notes == () or checkpoint.family.format == "npz"

    before, after = open_tensors(case.path), open_tensors(tmp_path / "theirs")
    # a file without its head has no prefix of the base model either
    prefix = checkpoint.family.prefix
    written = {name.removeprefix(prefix): name for name in after.specs}
    used = [name for name in before.specs if not checkpoint.ignores(name)]
    assert {name.removeprefix(prefix) for name in used} == set(written)
    for name in used:
        other = written[name.removeprefix(prefix)]
        assert before.specs[name].shape == after.specs[other].shape
        assert before.read(name).tobytes() == after.read(other).tobytes(), name

    again = vitjax.load(tmp_path / "theirs")
    assert again.config == model.config and again.family == model.family
    assert (again.preprocess, again.labels) == (model.preprocess, model.labels)
    vitjax.save(again, tmp_path / "orbax", format="orbax")
    vitjax.save(vitjax.load(tmp_path / "orbax"), tmp_path / "ours")
    ours = vitjax.load(tmp_path / "ours")
    assert (ours.config, ours.family, ours.preprocess) == (model.config, model.family, model.preprocess)
    assert ours.labels == model.labels
    assert ours.generation == model.generation
    same_arrays(model, ours)


def test_a_directory_that_holds_something(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model = vitjax.load(WEIGHTS / "vit_hf")
    with pytest.raises(ValueError, match="is there already: expected a new or an empty directory"):
        vitjax.save(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_a_format_has_not(tmp_path):
    model = vitjax.load(WEIGHTS / "deit_hf_distilled")
    with pytest.raises(ValueError, match="this model cannot be written in the format npz: ") as error:
        vitjax.save(model, tmp_path / "new", format="npz")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_from_one_library_to_another(tmp_path):
    model = vitjax.load(WEIGHTS / "deit_hf_distilled")
    vitjax.save(model, tmp_path / "own")
    record = json.loads((tmp_path / "own" / "config.json").read_text())
    assert record["vitjax"] == 1 and record["family"] == "DeiT"
    record["model"]["position_interpolation"] = "bicubic_antialias"
    record["model"]["transformer"]["norm_epsilon"] = 1e-6
    (tmp_path / "own" / "config.json").write_text(json.dumps(record))
    vitjax.save(vitjax.load(tmp_path / "own"), tmp_path / "timm", format="timm")
    timm = vitjax.load(tmp_path / "timm")
    assert timm.family == "timm ViT"
    same_arrays(model, timm)


def test_a_saved_folder_that_was_changed(tmp_path):
    vitjax.save(vitjax.load(WEIGHTS / "vit_hf"), tmp_path / "own")
    file = tmp_path / "own" / "config.json"
    record = json.loads(file.read_text())
    record["model"]["transformer"]["feed_forward_width"] = 45
    file.write_text(json.dumps(record))
    with pytest.raises(
        ValueError,
        match=r"params/blocks/feed_forward/down/kernel is float32\[2, 44, 24\]: expected \[2, 45, 24\]",
    ):
        vitjax.load(tmp_path / "own")
    del record["model"]["transformer"]["width"]
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"config.json: model.vision_transformer.transformer.width: "):
        vitjax.load(tmp_path / "own")
