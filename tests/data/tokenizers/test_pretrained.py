"""Tokenizers of checkpoint folders give transformers' ids and texts (golden/make_tokenizers.py)."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from vitjax.data.tokenizers import Tokenizer
from vitjax.data.tokenizers.pretrained import open_tokenizer, tokenizer_files

GOLDEN = Path(__file__).parents[2] / "golden" / "tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text())
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def read(name, **changed):
    """The tokenizer of a case, with other contents of some files; None takes one away."""
    files = {
        **tokenizer_files(GOLDEN / name),
        **{key.replace("__", "."): value for key, value in changed.items()},
    }
    model = json.loads((GOLDEN / name / "config.json").read_text())
    return open_tokenizer(
        {key: value for key, value in files.items() if value is not None}, "DIR", model=model
    )


def expected(name):
    found = json.loads((GOLDEN / name / "expected.json").read_text())
    if found["target"] == "as source":
        found["target"] = found["source"]
    return found


@pytest.mark.parametrize("name", CASES)
def test_ids_and_texts_are_transformers(name):
    tokenizer, found = read(name), expected(name)
    assert isinstance(tokenizer, Tokenizer)
    texts = [TEXTS[place] for place in found["texts"]]
    for text, source, target in zip(texts, found["source"], found["target"], strict=True):
        assert tokenizer.encode_source(text).tolist() == source, text
        if tokenizer.kind == "MBartTokenizer":  # the language behind a label is the next one's start
            *target, language = target
            assert language == found["target"][0][-1]
        end = [] if target and target[-1] == tokenizer.eos else [tokenizer.eos]
        assert tokenizer.encode(text).tolist() == [tokenizer.bos, *target, *end], text
    assert [tokenizer.decode(row) for row in found["tokens"]] == found["decoded"]
    assert tokenizer.vocab_size == found["vocab_size"]
    assert found["eos"] in (None, tokenizer.eos)
    assert tokenizer.pad == (tokenizer.eos if found["pad"] is None else found["pad"])


def test_the_cases_ask_enough():
    """Ids of every case differ for most texts, special tokens are found in them, and some texts have no tokens."""
    for name in CASES:
        found = expected(name)
        assert len(found["texts"]) >= 12 and len({tuple(row) for row in found["source"]}) >= 11, name
        assert sum(len(row) for row in found["tokens"]) > 250 and len(set(found["decoded"])) > 15, name
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 400_000


@pytest.mark.parametrize("name", ["trocr_json", "bert_files", "t5_files", "marian_saved"])
def test_it_is_saved_as_it_was(name, tmp_path):
    tokenizer = read(name)
    tokenizer.save(tmp_path)
    files = tokenizer_files(tmp_path)
    assert files == tokenizer_files(GOLDEN / name)
    model = json.loads((GOLDEN / name / "config.json").read_text())
    again = open_tokenizer(files, str(tmp_path), model=model)
    assert again == tokenizer and repr(again) == repr(tokenizer)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer and copy.encode(TEXTS[3]).tolist() == tokenizer.encode(TEXTS[3]).tolist()
    assert copy.decode(copy.encode(TEXTS[2])) == tokenizer.decode(tokenizer.encode(TEXTS[2]))


def test_other_files_or_ids_make_another():
    tokenizer = read("gpt2_files")
    merges = tokenizer.files["merges.txt"].removesuffix(b"\n").rpartition(b"\n")[0] + b"\n"
    other = read("gpt2_files", merges__txt=merges)
    ends = open_tokenizer(tokenizer.files, "DIR", bos=7, eos=(8, 9), pad=3)
    assert (ends.bos, ends.eos, ends.pad) == (7, 8, 3)
    assert open_tokenizer(tokenizer.files, "DIR", eos=(5, tokenizer.eos)).eos == tokenizer.eos
    assert len({repr(each) for each in (tokenizer, other, ends)}) == 3
    assert tokenizer != other and tokenizer != ends


def test_rows_of_texts():
    tokenizer = read("trocr_files")
    rows = [tokenizer.encode(text) for text in ("a dog", "two cats are tired")]
    batch = tokenizer.encode_batch(["a dog", "two cats are tired"])
    assert batch.dtype == np.int32 and batch.shape == (2, len(rows[1]))
    for got, row in zip(batch, rows, strict=True):
        assert got.tolist() == [*row, *[tokenizer.pad] * (len(got) - len(row))]
    assert tokenizer.encode("a dog", 20).tolist() == [*rows[0], *[tokenizer.pad] * (20 - len(rows[0]))]
    assert tokenizer.encode_batch([], 5).shape == (0, 5)
    assert tokenizer.decode_batch(batch) == ["a dog", "two cats are tired"]
    assert tokenizer.to_dict() | {"files": []} == {
        "kind": "RobertaTokenizer", "vocab_size": 330, "bos": 0, "eos": 2, "pad": 1, "files": [],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"text 'a dog' takes \d+ tokens, max_length is 4: raise max_length"):
        tokenizer.encode("a dog", 4)
    with pytest.raises(ValueError, match="is no Unicode text"):
        tokenizer.encode("a \ud800")


def test_tokens_that_there_are_not_say_nothing():
    for name in ("trocr_files", "t5_json", "marian_files", "marian_separate"):
        tokenizer = read(name)
        tokens = tokenizer.encode("the dog").tolist()
        assert tokenizer.decode([*tokens[:-1], tokenizer.vocab_size + 900, tokens[-1]]) == tokenizer.decode(
            tokens
        )


JSON = json.dumps


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("trocr_json", {"tokenizer__json": b'{"version": "1'}, r"DIR/tokenizer.json is not JSON: Unterminated"),
        ("trocr_json", {"tokenizer__json": b"\xff\xfe"}, r"DIR/tokenizer.json is not JSON: .*can't decode"),
        ("trocr_json", {"tokenizer__json": b"[" * 99_999}, r"DIR/tokenizer.json is not JSON"),
        ("trocr_json", {"tokenizer__json": b"[]"}, r"DIR/tokenizer.json holds a list: expected an object"),
        ("trocr_json", {"tokenizer__json": b"{}"}, r"DIR/tokenizer.json is damaged: Model missing"),
        (
            "t5_json",
            {"tokenizer__json": b'{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}'},
            r"DIR/tokenizer.json is damaged: .*precompiled_charsmap",
        ),
        ("trocr_json", {"tokenizer_config__json": b"7"}, r"DIR/tokenizer_config.json holds a int"),
        (
            "trocr_json",
            {"tokenizer_config__json": b'{"pad_token": 7}'},
            r"DIR/tokenizer_config.json: pad_token is 7: expected a token",
        ),
        (
            "trocr_json",
            {"tokenizer_config__json": b'{"extra_special_tokens": "x"}'},
            r"DIR/tokenizer_config.json: the extra special tokens are 'x': expected a list",
        ),
        (
            "trocr_json",
            {"tokenizer_config__json": b'{"added_tokens_decoder": {"one": "x"}}'},
            r"DIR/tokenizer_config.json: added_tokens_decoder is .*: expected an object of ids",
        ),
        ("gpt2_added", {"added_tokens__json": b'{"x": "7"}'}, r"DIR/added_tokens.json gives 'x' the id '7'"),
        ("gpt2_added", {"special_tokens_map__json": b"]"}, r"DIR/special_tokens_map.json is not JSON"),
        ("gpt2_files", {"merges__txt": None}, r"DIR has no merges.txt .*: a GPT2Tokenizer needs it"),
        ("gpt2_files", {"merges__txt": b"a b c\n"}, r"DIR/merges.txt, line 1 is 'a b c': expected two tokens"),
        ("gpt2_files", {"merges__txt": b"#version: 0.2\n\xc3"}, r"DIR/merges.txt is not UTF-8"),
        ("gpt2_files", {"merges__txt": b"a zzzz\n"}, r"the vocabulary in DIR is damaged: .*out of vocabulary"),
        ("gpt2_files", {"vocab__json": b'{"a": "b"}'}, r"the vocabulary in DIR is damaged"),
        ("bert_files", {"vocab__txt": b"a\nb\n"}, r"DIR/vocab.txt has no '\[UNK\]', which unknown words become"),
        ("t5_files", {"spiece__model": b""}, r"DIR/spiece.model holds 0 pieces"),
        ("t5_files", {"spiece__model": b"\xff" * 40}, r"DIR/spiece.model is not a SentencePiece model, or damaged"),
        (
            "t5_files",
            {"tokenizer_config__json": b'{"tokenizer_class": "T5Tokenizer", "extra_ids": "many"}'},
            r"DIR/tokenizer_config.json: extra_ids is 'many'",
        ),
        ("marian_files", {"target__spm": None}, r"DIR has no target.spm: a MarianTokenizer needs it"),
        ("marian_files", {"source__spm": b"no"}, r"DIR/source.spm is not a SentencePiece model, or damaged"),
        ("marian_files", {"target__spm": b""}, r"DIR/target.spm is empty"),
        (
            "marian_saved",
            {
                "tokenizer_config__json": b'{"tokenizer_class": "MarianTokenizer", "added_tokens_decoder": '
                b'{"226": {"content": "x", "lstrip": true}}}'
            },
            r"DIR: the added token 'x' takes spaces with it",
        ),
        ("marian_files", {"vocab__json": b'{"<unk>": -1}'}, r"DIR/vocab.json gives '<unk>' the id -1"),
        ("marian_files", {"vocab__json": b'{"</s>": 0}'}, r"DIR/vocab.json has no '<unk>'"),
        ("bart_files", {"vocab__json": None}, r"DIR has no vocab.json .*: a RobertaTokenizer needs it"),
        (
            "bert_files",
            {"tokenizer_config__json": b'{"auto_map": {"AutoTokenizer": ["mine.Tokenizer", null]}}'},
            r"DIR/tokenizer_config.json asks for code of its own \(auto_map\), which vitjax never runs",
        ),
    ],
)  # fmt: skip
def test_what_is_damaged_or_missing_is_named_in_one_line(name, changed, reason, capfd):
    with pytest.raises(ValueError, match=reason) as refusal:
        read(name, **changed)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400
    assert capfd.readouterr().err == ""


def test_classes_that_need_a_tokenizer_json():
    files = {"vocab.json": b"{}", "tokenizer_config.json": b'{"tokenizer_class": "WhisperTokenizer"}'}
    with pytest.raises(
        ValueError, match="DIR has no tokenizer.json, and without it WhisperTokenizer is not read"
    ):
        open_tokenizer(files, "DIR")
    # with one, neither the class nor code of its own matters
    files = tokenizer_files(GOLDEN / "generic_json")
    settings = JSON(
        {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": "x"}, "eos_token": "[SEP]"}
    )
    tokenizer = open_tokenizer({**files, "tokenizer_config.json": settings.encode()}, "DIR")
    assert tokenizer.decode(tokenizer.encode("A man rides")) == "A man rides"


def test_an_end_is_needed():
    files = tokenizer_files(GOLDEN / "generic_json")
    settings = JSON({"tokenizer_class": "PreTrainedTokenizerFast"}).encode()
    with pytest.raises(ValueError, match="DIR names no token that ends a text: set eos_token"):
        open_tokenizer({**files, "tokenizer_config.json": settings}, "DIR")


def test_text_without_an_unknown_token():
    """A vocabulary of words that has none for the others."""
    fields = json.loads(tokenizer_files(GOLDEN / "generic_json")["tokenizer.json"])
    fields["model"]["unk_token"] = "[GONE]"
    tokenizer = read("generic_json", tokenizer__json=JSON(fields).encode())
    assert tokenizer.decode(tokenizer.encode("man")) == "man"
    with pytest.raises(
        ValueError, match="text 'zebra' has no tokens: .*[Mm]issing \\[UNK\\] token"
    ) as refusal:
        tokenizer.encode("zebra")
    assert "\n" not in str(refusal.value)


def test_a_folder_without_a_vocabulary_has_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "vocab.txt").mkdir()
    assert tokenizer_files(tmp_path) == {}
