import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from vitjax import export as export_module
from vitjax.data.preprocess import Preprocess
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.decoding.config import GenerationConfig
from vitjax.export import export
from vitjax.model import Model
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import abstract

ROWS = 5
LETTERS = CharacterTokenizer("abcdefgh")
VOCABULARY = LETTERS.vocab_size
BLOCKS = TransformerConfig(width=16, depth=1, num_heads=2, feed_forward_width=32)
IMAGES = VisionTransformerConfig(BLOCKS, image_size=(8, 12), patch_size=(4, 4), channels=1, pooling="none")
TEXTS = TextEncoderConfig(BLOCKS, VOCABULARY, max_length=7, positions="learned")
DECODER = DecoderConfig(BLOCKS, VOCABULARY, max_length=16)
CONFIGS = {
    "classes": replace(IMAGES, pooling="mean", num_classes=10),
    "vectors": replace(IMAGES, pooling="mean"),
    "image to text": EncoderDecoderConfig(IMAGES, DECODER),
    "lstm": ShowAttendTellConfig(IMAGES, VOCABULARY, width=16, embedding_width=8, attention_width=8),
    "text to text": EncoderDecoderConfig(TEXTS, DECODER),
}

ALONE = """
import importlib.abc, sys
from pathlib import Path

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vitjax", "flax"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
import jax, jax.export, numpy as np

for file in Path(sys.argv[1]).glob("*/model"):
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    for given in file.parent.glob("given*.npz"):
        out = program.call(*np.load(given).values())
        np.savez(given.with_name(given.name.replace("given", "found")), **out)
assert "vitjax" not in sys.modules and "flax" not in sys.modules
"""


def model(name: str, **generation: Any) -> Model:
    """A random model whose answer depends on all it reads."""
    _, shapes, stats = abstract(lambda rngs: CONFIGS[name].build(rngs=rngs))
    random = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape), leaf.dtype), shapes
    )
    options = dict(max_length=9, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0) | generation
    return Model(
        config=CONFIGS[name],
        params=params,
        stats=stats,
        preprocess=None if name == "text to text" else Preprocess((8, 12), 1, (0.4,), (0.3,)),
        tokenizer=None if name in ("classes", "vectors") else LETTERS,
        generation=GenerationConfig(**options),
    )


def pixels(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, *size, 1), np.uint8)


class Case(NamedTuple):
    """A model, options of its export, what goes in, and what must come out."""

    model: Model
    options: dict[str, Any]
    given: dict[str, np.ndarray]
    expected: dict[str, Any]


def case(name: str) -> Case:
    images = {"images": pixels(8, 12)}
    if name == "classes":
        vit = model(name)
        return Case(vit, {}, images, {"logits": vit.logits(images["images"])})
    if name == "image to text":
        options = {"num_beams": 3, "num_return_sequences": 2, "max_length": 7}
        reader, given = model(name), images
        out = reader.generate(images["images"], **options)
    elif name == "lstm":
        options = {"do_sample": True, "num_return_sequences": 2}
        reader, given = model(name), images | {"seed": np.uint32(7)}
        out = reader.generate(images["images"], key=jax.random.key(7), **options)
    else:
        random, options = np.random.default_rng(0), {"num_beams": 2}
        source = random.integers(0, VOCABULARY, (ROWS, 6)).astype(np.int32)
        mask = np.arange(6) < random.integers(2, 7, (ROWS, 1))
        reader, given = model(name), {"source": source, "source_mask": mask}
        out = reader.generate(source, source_mask=mask, **options)
    return Case(reader, options, given, {"tokens": out.tokens, "scores": out.scores, "lengths": out.lengths})


def test_without_vitjax_and_flax(tmp_path):
    """In a process that can import neither, batches of several sizes."""
    batches = {"classes": (1, 3, 5), "image to text": (1, 3, 5), "lstm": (3,), "text to text": (1, 5)}
    cases = {name: case(name) for name in batches}
    for name, (exported, options, given, _) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        about = export(exported, folder / "model", **options)
        assert about == json.loads((folder / "model.json").read_text())
        assert [each["name"] for each in about["inputs"]] == list(given)
        for rows in batches[name]:
            some = {key: array[:rows] if array.ndim else array for key, array in given.items()}
            if "source" in some:
                length = some["source_mask"].sum(axis=1).max()
                some = {key: array[:, :length] for key, array in some.items()}
            np.savez(folder / f"given{rows}.npz", **some)
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=True, timeout=300)
    for name, (_, _, _, expected) in cases.items():
        outputs = json.loads((tmp_path / name / "model.json").read_text())["outputs"]
        assert [told["name"] for told in outputs] == sorted(expected)
        for rows in batches[name]:
            found = dict(np.load(tmp_path / name / f"found{rows}.npz"))
            assert len(found) == len(outputs)
            for told in outputs:
                value = np.asarray(expected[told["name"]])[:rows]
                assert told["shape"] == ["batch", *value.shape[1:]]
                assert found[told["name"]].dtype == told["dtype"] == value.dtype
                tolerance = 0 if value.dtype == np.int32 else 1e-6
                np.testing.assert_allclose(found[told["name"]], value, rtol=0, atol=tolerance)
        answers = np.asarray(expected.get("tokens", expected.get("logits")))
        assert len(np.unique(answers, axis=0)) > 3


def test_what_is_written(tmp_path):
    reader = model("image to text")
    file = tmp_path / "m.stablehlo"
    about = export(reader, file, num_beams=4, max_length=6, length_penalty=0.5)
    data = file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m.stablehlo",
        "m.stablehlo.json",
        "m.stablehlo.tokenizer",
    ]
    assert CharacterTokenizer.from_dict(
        json.loads((tmp_path / "m.stablehlo.tokenizer" / "tokenizer.json").read_text())
    ) == (LETTERS)
    assert about["tokenizer"] == {"folder": "m.stablehlo.tokenizer", "pad": 0, "bos": 1, "eos": 2}
    program = about["program"]
    assert program["file"] == "m.stablehlo"
    assert program["bytes"] == len(data)
    assert program["sha256"] == hashlib.sha256(data).hexdigest()
    assert program["platforms"] == ["cpu", "cuda", "tpu"]
    assert program["parameters"] == {
        "count": sum(leaf.size for leaf in jax.tree.leaves(reader.params)),
        "dtype": "float32",
    }
    assert about["inputs"][0]["shape"] == ["batch", 8, 12, 1]
    assert about["preprocess"]["image_size"] == [8, 12]
    assert about["generation"]["num_beams"] == 4
    assert about["generation"]["length_penalty"] == 0.5
    assert "do_sample" not in about["generation"]  # as it is by default
    assert about["made_with"]["jax"] == jax.__version__
    assert about["made_from"] == reader.fingerprint()
    assert str(Path(vitjax.__file__).parent).encode() not in data  # where it was made is nobody's business


def test_texts_have_any_length_up_to_the_model_s(tmp_path):
    about = export(model("text to text"), tmp_path / "m", platforms=["cpu"])
    for each in about["inputs"]:
        assert each["shape"] == ["batch", "source"]
        assert each["limit"] == "source <= 7"
    program = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes()))
    longer = np.zeros((1, 8), np.int32)
    with pytest.raises(ValueError, match="shapes"):
        program.call(longer, longer == 0)


def test_another_size_and_fewer_bits(tmp_path):
    vit = model("classes")
    images = pixels(12, 16)
    expected = vit.logits(np.asarray(vit.preprocess.normalize(images)))

    def logits(file):
        return jax.export.deserialize(bytearray(file.read_bytes())).call(images)["logits"]

    whole = export(vit, tmp_path / "whole", platforms=["cpu"], image_size=(12, 16))
    assert whole["preprocess"]["image_size"] == [12, 16] == whole["inputs"][0]["shape"][1:3]
    np.testing.assert_allclose(logits(tmp_path / "whole"), expected, rtol=0, atol=1e-6)
    half = export(vit, tmp_path / "half", platforms=["cpu"], image_size=(12, 16), dtype="bfloat16")
    saved = whole["program"]["bytes"] - half["program"]["bytes"]
    assert abs(saved - 2 * half["program"]["parameters"]["count"]) < 1024
    rounded = replace(
        vit, params=jax.tree.map(lambda leaf: leaf.astype("bfloat16").astype(leaf.dtype), vit.params)
    )
    expected = rounded.logits(np.asarray(vit.preprocess.normalize(images)))
    np.testing.assert_allclose(logits(tmp_path / "half"), expected, rtol=0, atol=1e-6)


def test_vectors_of_an_encoder_without_a_head(tmp_path):
    encoder = replace(model("vectors"), preprocess=None)
    about = export(encoder, tmp_path / "m", platforms=["cpu"])
    assert [(each["name"], each["dtype"], each["shape"]) for each in about["inputs"]] == [
        ("pixels", "float32", ["batch", 8, 12, 1])
    ]
    assert [each["name"] for each in about["outputs"]] == ["features", "pooled"]
    normalised = pixels(8, 12).astype(np.float32) / 100
    out = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes())).call(normalised)
    expected = encoder.features(normalised)
    np.testing.assert_allclose(out["features"], expected.tokens, rtol=0, atol=1e-6)
    np.testing.assert_allclose(out["pooled"], expected.pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("classes", {"platforms": ["cpu", "gpu"]}, "no platform 'gpu': expected cpu, cuda, rocm, tpu"),
        ("classes", {"platforms": []}, "no platform ''"),
        ("classes", {"dtype": "int8"}, "no dtype 'int8': expected float32, bfloat16, float16"),
        ("classes", {"num_beams": 2}, "names classes and writes no sequences: leave num_beams out"),
        ("classes", {"image_size": (9, 12)}, r"image \(9, 12\) gives 9x12 pixels"),
        ("text to text", {"image_size": (8, 8)}, "reads text: it has no use for an image size"),
        ("image to text", {"max_length": 17}, "beyond the 16 learned positions"),
        ("image to text", {"num_bems": 2}, "no option 'num_bems'"),
    ],
)
def test_refusals(tmp_path, name, options, line):
    with pytest.raises(ValueError, match=line) as error:
        export(model(name), tmp_path / "m", **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_do_not_fit_into_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "MOST_BYTES", 8_000)
    with pytest.raises(
        ValueError, match=r"m: the parameters take .* GB in float32, .* at most: keep them in bf"
    ):
        export(model("classes"), tmp_path / "m", platforms=["cpu"])
    with pytest.raises(ValueError, match="this model is too large to be exported"):
        monkeypatch.setattr(export_module, "MOST_BYTES", 1_000)
        export(model("classes"), tmp_path / "m", platforms=["cpu"], dtype="bfloat16")
