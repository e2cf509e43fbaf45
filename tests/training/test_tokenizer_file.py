import dataclasses
import json
from pathlib import Path

import pytest

from tests.training.runs import transcriber
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.training.streams import check_texts
from vitjax.training.tokenizer_file import load_tokenizer, save_tokenizer
from vitjax.weights.tokenizer import read_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"


def test_there_and_back(tmp_path):
    tokenizer = CharacterTokenizer('abc "\\\N{GREEK SMALL LETTER ALPHA}')
    save_tokenizer(tmp_path, tokenizer)
    assert load_tokenizer(str(tmp_path)) == tokenizer
    assert "\N{GREEK SMALL LETTER ALPHA}" in (tmp_path / "tokenizer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"kind": "characters", "alpha', "Unterminated string"),
        (b"\xff\xfe", "can't decode"),
        (b'["characters"]', "found a list"),
        (b'{"kind": "words", "alphabet": "abc"}', "expected kind 'characters'"),
        (b'{"kind": "characters", "alphabet": "aba"}', "repeats 'a'"),
        (b'{"kind": "characters", "alphabet": ""}', "empty"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path, content, reason):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"tokenizer.json is not a tokenizer: .*{reason}") as refusal:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.json is missing: the run's tokens cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["marian_files", "gpt2_files", "bart_files"])
def test_a_checkpoints_tokenizer_travels_with_the_run(tmp_path, name):
    """With its class and its special tokens, which the checkpoint's config.json tells."""
    tokenizer = read_tokenizer(GOLDEN / name)
    for _ in range(2):  # a run that goes on writes it again
        save_tokenizer(tmp_path, tokenizer)
    again = load_tokenizer(tmp_path)
    assert again == tokenizer and repr(again) == repr(tokenizer)
    assert again.encode("the dog's </s> end").tolist() == tokenizer.encode("the dog's </s> end").tolist()


def test_a_model_may_have_more_tokens_than_its_tokenizer():
    """Published models are padded to round sizes."""
    tokenizer, config = read_tokenizer(GOLDEN / "bart_files"), transcriber()
    generation = dataclasses.replace(config.generation, decoder_start_token_id=2)
    for size in (tokenizer.vocab_size - 1, tokenizer.vocab_size, 384):
        decoder = dataclasses.replace(config.model.decoder, vocabulary_size=size)
        model = dataclasses.replace(config.model, decoder=decoder)
        fits = dataclasses.replace(config, model=model, generation=generation)
        if size < tokenizer.vocab_size:
            with pytest.raises(ValueError, match="vocabulary_size is 329, but digit_strings has 330 tokens"):
                check_texts(fits, tokenizer)
        else:
            check_texts(fits, tokenizer)


def test_what_is_damaged_of_it_is_named(tmp_path):
    save_tokenizer(tmp_path, read_tokenizer(GOLDEN / "gpt2_files"))
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields | {"bos": "x"}))
    with pytest.raises(
        ValueError, match=r"tokenizer.json is not a tokenizer: bos is 'x', expected a token's id"
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    (tmp_path / "tokenizer" / "merges.txt").write_text("a b c")
    with pytest.raises(ValueError, match=r"tokenizer/merges.txt, line 1 is 'a b c'"):
        load_tokenizer(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(
        ValueError, match=r"tokenizer.json is not a tokenizer: .*tokenizer holds no tokenizer"
    ):
        load_tokenizer(tmp_path)
