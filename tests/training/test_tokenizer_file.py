import pytest

from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.training.tokenizer_file import load_tokenizer, save_tokenizer


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
