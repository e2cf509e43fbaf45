import json
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest

from tests.test_export import model
from vitjax import api

GOLDEN = Path(__file__).parents[1] / "golden" / "weights"


@pytest.fixture
def named(monkeypatch):
    """`vitjax.load` finds random models by their names."""
    monkeypatch.setattr(api, "load", model)


def test_a_classifier(vitjax, named, tmp_path):
    file = tmp_path / "digits.stablehlo"
    code, out, err = vitjax("export", "classes", file, "--platforms", "cpu")
    assert (code, err) == (0, "")
    first, inputs, outputs, beside = out.splitlines()
    about = json.loads((tmp_path / "digits.stablehlo.json").read_text())
    assert first == (
        f"{file}: {file.stat().st_size / 1e6:.1f} MB with {about['program']['parameters']['count']:,} parameters, "
        f"for cpu; it needs jax {jax.__version__} or newer"
    )
    assert inputs == "inputs: images uint8[batch, 8, 12, 1]"
    assert outputs == "outputs: logits float32[batch, 10]"
    assert beside == f"beside it: {file}.json"


def test_somebody_s_checkpoint(vitjax, tmp_path):
    folder, file = GOLDEN / "vit_hf", tmp_path / "m"
    assert vitjax("export", folder, file, "--platforms", "cpu").code == 0
    loaded = api.load(folder)
    images = np.random.default_rng(0).integers(0, 256, (2, *loaded.preprocess.image_size, 3), np.uint8)
    found = jax.export.deserialize(bytearray(file.read_bytes())).call(images)
    np.testing.assert_allclose(found["logits"], loaded.logits(images), rtol=0, atol=1e-6)


def test_a_model_that_writes(vitjax, named, tmp_path):
    file = tmp_path / "m"
    options = ["--num-beams", 4, "--max-length", 6, "--platforms", "cpu,tpu", "--dtype", "float16"]
    code, out, err = vitjax("export", "image to text", file, *options)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[2] == "outputs: lengths int32[batch, 1], scores float32[batch, 1], tokens int32[batch, 1, 6]"
    assert lines[3] == f"beside it: {file}.json, {file}.tokenizer"
    about = json.loads((tmp_path / "m.json").read_text())
    assert about["generation"]["num_beams"] == 4
    assert about["program"]["platforms"] == ["cpu", "tpu"]
    assert about["program"]["parameters"]["dtype"] == "float16"


def test_json_and_sampling(vitjax, named, tmp_path):
    options = ["--sample", "--top-k", 3, "--image-size", 12, 16, "--platforms", "cpu", "--json"]
    code, out, err = vitjax("export", "lstm", tmp_path / "m", *options)
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about == json.loads((tmp_path / "m.json").read_text())
    assert [each["name"] for each in about["inputs"]] == ["images", "seed"]
    assert about["inputs"][0]["shape"] == ["batch", 12, 16, 1]
    assert about["generation"] | {"do_sample": True, "top_k": 3} == about["generation"]


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("classes", ["FOLDER"], "is a folder: expected the name of a file"),
        ("classes", ["FOLDER/x/m"], "there is no folder"),
        ("classes", ["m", "--num-beams", 2], "classes names classes: it has no use for --num-beams"),
        ("classes", ["m", "--sample"], "it has no use for --sample"),
        (
            "classes",
            ["m", "--platforms", "cpu,gpu"],
            "there is no platform 'gpu': expected cpu, cuda, rocm, tpu",
        ),
        ("classes", ["m", "--dtype", "int4"], "there is no dtype 'int4'"),
        ("classes", ["m", "--image-size", 9, 12], "which does not divide it"),
        ("image to text", ["m", "--num-beams", 0], "num_beams=0: expected 1 or more"),
        ("text to text", ["m", "--image-size", 8, 8], "it has no use for an image size"),
    ],
)
def test_refusals(refusal, named, tmp_path, monkeypatch, name, arguments, line):
    monkeypatch.chdir(tmp_path)
    arguments = [str(argument).replace("FOLDER", str(tmp_path)) for argument in arguments]
    assert line in refusal("export", name, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_no_run(refusal, tmp_path):
    assert "holds no weights" in refusal("export", tmp_path, tmp_path / "m")
