"""From a checkpoint's folder to text and back to a folder: the tokenizer is the folder's own all the way."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vitjax
from vitjax.commands.records import checkpoint_record
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.data.tokenizers.pretrained import tokenizer_files

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image-to-text model and a tokenizer, of which it knows the first few tokens."""
    path = tmp_path_factory.mktemp("checkpoint") / "trocr"
    shutil.copytree(GOLDEN / "weights" / "trocr_printed", path)
    for name, content in tokenizer_files(GOLDEN / "tokenizers" / "trocr_files").items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return vitjax.load(folder)


@pytest.fixture(scope="module")
def pixels(folder):
    return np.load(folder / "expected.npz")["pixels"]


def test_what_it_writes_is_text(model, pixels, folder):
    out = model.generate(pixels, num_beams=1)
    tokens = np.asarray(out.tokens)
    texts = [model.tokenizer.decode(row) for row in tokens[:, 0]]
    assert out.text() == [[text] for text in texts] and any(texts)
    assert [["".join(pieces) for pieces in row] for row in out.pieces()] == out.text()
    streamed = list(model.stream(pixels, chunk_size=3))
    assert [
        ["".join(texts) for texts in zip(*row, strict=True)] for row in zip(*streamed, strict=True)
    ] == out.text()
    assert (model.tokenizer.bos, model.tokenizer.eos, model.tokenizer.pad) == (
        model.generation.start_id, model.generation.stop_ids[0], model.generation.pad_token_id,
    )  # fmt: skip


def test_how_likely_a_text_is(model, pixels):
    """The end counts, and what only fills up does not."""
    tokenizer = model.tokenizer
    texts = ["!$", "", "(,.-"]
    found = np.asarray(model.score(pixels, texts))
    for place, text in enumerate(texts):
        tokens = tokenizer.encode(text)
        assert tokens[0] == tokens[-1] == tokenizer.eos != tokenizer.pad  # this model begins with its end
        rows = np.broadcast_to(tokens, (len(pixels), len(tokens)))
        logits = np.asarray(model.logits(pixels, rows[:, :-1]), np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = np.take_along_axis(log_probs, rows[:, 1:, None], axis=-1).sum(axis=(1, 2))
        np.testing.assert_allclose(found[:, place], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"there is no token \d+: those of this model are 0 to \d+"):
        model.score(pixels, ["the quick brown fox"])


@pytest.mark.parametrize("format", ["hf", "safetensors"])
def test_it_is_saved_with_the_model(model, folder, tmp_path, format):
    assert vitjax.save(model, tmp_path / "saved", format=format) == ()
    again = vitjax.load(tmp_path / "saved")
    assert again.tokenizer == model.tokenizer and again.generation == model.generation
    if format == "hf":
        assert tokenizer_files(tmp_path / "saved") == tokenizer_files(folder)
    else:
        assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["kind"] == "files"


def test_an_alphabet_is_for_us_alone(model, tmp_path):
    own = dataclasses.replace(model, tokenizer=CharacterTokenizer("abc"))
    notes = vitjax.save(own, tmp_path / "saved", format="hf")
    assert notes == ("tokenizer.json holds an alphabet, which only vitjax reads",)
    assert vitjax.load(tmp_path / "saved").tokenizer == own.tokenizer


def test_without_one_there_are_tokens(pixels):
    model = vitjax.load(GOLDEN / "weights" / "trocr_printed")
    assert model.tokenizer is None and model.writes
    out = model.generate(pixels, num_beams=1)
    for call in (out.text, out.pieces):
        with pytest.raises(ValueError, match="the model has no tokenizer, so there is no text: read .tokens"):
            call()
    for call in (model.stream, lambda source: model.score(source, ["a"])):
        with pytest.raises(ValueError, match="this model came without a tokenizer and knows no text"):
            call(pixels)


def test_inspect_tells_of_it(folder, tmp_path):
    record = checkpoint_record(folder)
    assert record["supported"] and record["what"].endswith("fully supported")
    assert record["tokenizer"]["kind"] == "RobertaTokenizer" and record["tokenizer"]["vocab_size"] == 330
    assert record["generation"]["decoder_start_token_id"] == 2
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "merges.txt").unlink()
    record = checkpoint_record(tmp_path / "other")
    assert not record["supported"] and record["what"].endswith("not fully supported")
    assert "has no merges.txt" in record["why"]


def test_source_tokens_that_the_model_does_not_have():
    model = vitjax.load(GOLDEN / "weights" / "marian")
    size = model.config.vocabulary_size
    with pytest.raises(
        ValueError, match=f"there is no token {size}: those of this model are 0 to {size - 1}"
    ):
        model.generate(np.array([[3, size]]))
    with pytest.raises(ValueError, match="there is no token -1"):
        model.logits(np.array([[3, -1]]), np.array([[5]]))
