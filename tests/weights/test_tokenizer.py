"""A folder's tokenizer begins, ends and pads as its model does."""

import json
from pathlib import Path

import pytest

from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.weights.tokenizer import read_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"


@pytest.mark.parametrize(
    ("name", "bos", "eos", "pad"),
    [
        ("trocr_files", 2, 2, 1),  # config.json's decoder says it; the tokenizer's own bos is 0
        ("trocr_added", 0, 2, 1),  # it names a bos alone
        ("gpt2_added", 0, 0, 0),  # it pads with the end, the tokenizer would with 328
        ("bart_files", 2, 2, 1),
        ("bert_files", 2, 3, 0),  # it is silent: [CLS], [SEP], [PAD]
        ("t5_bare", 0, 1, 0),  # no bos at all: padding begins
        ("mbart_json", 178, 2, 1),
        ("marian_files", 225, 0, 225),
    ],
)
def test_special_tokens_are_the_models(name, bos, eos, pad):
    tokenizer = read_tokenizer(GOLDEN / name)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (bos, eos, pad)
    tokens = tokenizer.encode("A man rides").tolist()
    assert tokens[0] == bos and tokens[-1] == eos and eos not in tokens[2:-1]


def test_the_generation_config_goes_before_the_models(tmp_path):
    read_tokenizer(GOLDEN / "trocr_files").save(tmp_path)
    model = json.loads((GOLDEN / "trocr_files" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(model))
    generation = {"decoder_start_token_id": 0, "eos_token_id": [5, 2], "pad_token_id": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 2, 3)
    (tmp_path / "generation_config.json").write_text("{}")  # then config.json is not asked
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 2, 1)


def test_a_folder_may_have_none_or_one_of_ours(tmp_path):
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    assert read_tokenizer(str(tmp_path)) is None
    CharacterTokenizer("abc").save(tmp_path)
    assert read_tokenizer(tmp_path) == CharacterTokenizer("abc")


def test_what_is_damaged_is_named(tmp_path):
    read_tokenizer(GOLDEN / "bart_files").save(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": "two"}')
    with pytest.raises(ValueError, match=r"config.json: eos_token_id is 'two': ") as refusal:
        read_tokenizer(tmp_path)
    assert "\n" not in str(refusal.value)
