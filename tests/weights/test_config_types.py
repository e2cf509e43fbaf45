"""A config.json that somebody damaged or made up: one line, at once, whatever it holds."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from vitjax.weights.checkpoint import open_checkpoint
from vitjax.weights.config_types import require_types
from vitjax.weights.preprocessing import read_timm
from vitjax.weights.tokenizer import read_tokenizer
from vitjax.weights.vit import VIT

FOLDER = Path(__file__).parents[1] / "golden" / "weights" / "vit_hf"


@pytest.fixture
def folder(tmp_path):
    shutil.copy(FOLDER / "model.safetensors", tmp_path)
    shutil.copy(FOLDER / "config.json", tmp_path)
    open_checkpoint(tmp_path)
    return tmp_path


def refusal(folder, content):
    (folder / "config.json").write_bytes(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    with pytest.raises(ValueError) as caught:
        open_checkpoint(folder)
    line = str(caught.value)
    assert line.startswith(str(folder)) and line.isprintable() and len(line) < 600
    return line


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("hidden_size", ["24", None, [24], {}, 24.0, True], "transformer.width would be|Type-check"),
        ("hidden_size", [0, -24, 2**70, 10**9], ""),
        ("num_hidden_layers", ["x", 1.5, True, []], "transformer.depth would be|Type-check"),
        ("num_hidden_layers", [20_001, 10**9, 2**70], "expected at most 20000|Overflow|too large|layers"),
        ("num_attention_heads", [0, "3", None], ""),
        ("layer_norm_eps", ["small", [], None], "norm_epsilon would be|float"),
        ("hidden_act", ["softmax", None, 3, []], "hidden_act|unhashable"),
        ("image_size", ["224", 0, [1, 2, 3], 2.5], "image_size|iterable"),
        ("patch_size", [0, -4, True, 10**9, [7, 7]], ""),
        ("num_channels", ["three", [3], 0.5], "channels would be|Type-check"),
    ],
)
def test_values_that_make_no_model_are_refused(folder, name, values, reason):
    fields = json.loads((FOLDER / "config.json").read_text())
    for value in values:
        assert re.search(reason, refusal(folder, fields | {name: value})), value


def test_the_field_is_named():
    """What the line says where types are not checked as in these tests."""
    config = VIT.read_config({}, {})
    require_types(config)
    object.__setattr__(config.transformer, "depth", "12")
    with pytest.raises(
        ValueError, match="^transformer.depth would be '12': Input should be a valid integer$"
    ):
        require_types(config)
    object.__setattr__(config.transformer, "depth", True)
    with pytest.raises(
        ValueError, match="^transformer.depth would be True: Input should be a valid integer$"
    ):
        require_types(config)


TOKENIZERS = FOLDER.parents[1] / "tokenizers"


@pytest.mark.parametrize(
    ("kind", "name", "fields", "reason"),
    [
        (
            "t5_bare",
            "tokenizer_config.json",
            {"extra_ids": 10**9},
            "extra_ids is 1000000000: expected a whole",
        ),
        ("bert_files", "config.json", {"model_type": ["bert"]}, None),
    ],
)
def test_a_tokenizer_of_a_made_up_config_is_read_or_refused_at_once(tmp_path, kind, name, fields, reason):
    shutil.copytree(TOKENIZERS / kind, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(json.dumps(fields))
    if reason is None:
        assert read_tokenizer(tmp_path) is not None
    else:
        with pytest.raises(ValueError, match=reason):
            read_tokenizer(tmp_path)


def test_preprocessing_of_a_made_up_config_is_refused():
    with pytest.raises(ValueError, match="crop_mode is .*, expected center, squash, border"):
        read_timm({"crop_mode": ["center"]}, where="config.json")


def test_what_is_no_object_is_refused(folder):
    for content in (
        b"",
        b"[]",
        b"\xff\xfe{}",
        b"3",
        b"{" * 3,
        b'{"a":' + b"[" * 100_000,
        b"{}" + b" " * 2**23,
    ):
        assert "config.json" in refusal(folder, content)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")  # opening one would wait for a writer for ever
    with pytest.raises(ValueError, match="config.json is not .* not a plain file"):
        open_checkpoint(folder)
