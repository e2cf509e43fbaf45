import json
import re

import numpy as np
import pytest

import vitjax as package
from tests.weights.golden_cases import WEIGHTS


def test_from_transformers_to_orbax_and_back(vitjax, tmp_path):
    code, out, err = vitjax("convert", WEIGHTS / "vit_hf", tmp_path / "own", "--format", "orbax")
    assert (code, err) == (0, "") and out == f"{tmp_path}/own: orbax, 25 arrays read back bit for bit\n"
    assert (tmp_path / "own" / "checkpoints").is_dir()
    code, out, err = vitjax("convert", tmp_path / "own", tmp_path / "hf", "--format", "hf")
    assert (code, err) == (0, "") and len(out.splitlines()) == 1
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "vit"
    pixels = np.random.default_rng(0).normal(size=(1, 25, 25, 3)).astype(np.float32)
    first, last = (package.load(path).logits(pixels) for path in (WEIGHTS / "vit_hf", tmp_path / "hf"))
    np.testing.assert_array_equal(first, last)


def test_classes_have_their_names(vitjax, pictures, tmp_path):
    model = package.load(WEIGHTS / "vit_hf")
    assert model.labels == tuple(f"label {i}" for i in range(7))
    code, out, err = vitjax("decode", WEIGHTS / "vit_hf", pictures[0])
    assert (code, err) == (0, "") and re.match(
        r".*: class (\d) label \1  \(probability 0\.\d+\)$", out.strip()
    )
    vitjax("convert", WEIGHTS / "vit_timm_cls", tmp_path / "timm", "--format", "timm")
    assert package.load(tmp_path / "timm").labels is None


def test_notes_say_what_is_lost(vitjax, tmp_path):
    _, out, _ = vitjax("convert", WEIGHTS / "vit_npz" / "vit.npz", tmp_path / "npz", "--format", "npz")
    assert out.splitlines()[1] == "note: an .npz holds arrays alone: preprocessing is left out"


@pytest.mark.parametrize("format", ["hf", "npz"])
def test_a_run_whose_model_the_format_has_not(vitjax, strings_run, tmp_path, format):
    code, out, err = vitjax("convert", strings_run, tmp_path / "new", "--format", format)
    assert code == 1 and not out and not (tmp_path / "new").exists()
    assert f"this model cannot be written in the format {format}: " in err and err.count("\n") == 1


def test_a_place_that_is_taken(vitjax, tmp_path):
    (tmp_path / "notes").write_text("mine")
    code, _, err = vitjax("convert", WEIGHTS / "vit_hf", tmp_path, "--format", "hf")
    assert code == 1 and "expected a new or an empty directory" in err


def test_a_run_becomes_a_timm_model(vitjax, classes_run, tmp_path):
    """Dropout and the like, which timm's config.json does not hold, matter to training alone."""
    code, out, err = vitjax("convert", classes_run, tmp_path / "timm", "--format", "timm")
    assert (code, err) == (0, "") and "read back bit for bit" in out
    run, timm = package.load(classes_run), package.load(tmp_path / "timm")
    assert timm.family == "timm ViT"
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(run.logits(pixels), timm.logits(pixels))
