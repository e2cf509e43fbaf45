"""What is told token by token is the text in the end, and nothing that was told changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.decoding.transcript import Transcript, split_text, told


class Bytes(CharacterTokenizer):
    """A token a byte (3 to 258), and WordPiece's way with apostrophes."""

    def decode(self, tokens):
        text = bytes(int(token) - 3 for token in tokens if token >= 3).decode(errors="replace")
        for joined in ("'", "n't", "'ve", "."):
            text = text.replace(f" {joined} " if joined == "'" else f" {joined}", joined)
        return text


TOKENIZER = Bytes("a")
TEXTS = st.lists(
    st.sampled_from([" ", "'", "n", "v", "e", "t", "r", ".", "x", "\N{SNOWMAN}", "\N{GRINNING FACE}"]),
    max_size=12,
).map("".join)


def tokens_of(text):
    return np.array([1, *(byte + 3 for byte in text.encode()), 2, 0], np.int32)


@given(TEXTS, st.integers(1, 4))
def test_joined_it_is_the_text(text, size):
    tokens, expected = tokens_of(text), TOKENIZER.decode(tokens_of(text))
    transcript = Transcript(TOKENIZER)
    pieces = [transcript.add(tokens[start : start + size]) for start in range(0, len(tokens), size)]
    assert "".join(pieces) + transcript.finish() == expected
    split = split_text(TOKENIZER, tokens)
    assert len(split) == len(tokens) - 1 and "".join(split) == expected


def test_what_may_change_waits():
    transcript = Transcript(TOKENIZER)
    assert transcript.add(tokens_of("do n'")[1:-2]) == "do"
    assert transcript.add(tokens_of("t say \N{SNOWMAN}")[1:-3]) == "n't say"
    assert transcript.add(tokens_of("\N{SNOWMAN}")[-3:]) == " \N{SNOWMAN}"
    assert transcript.finish() == ""


def test_a_part_of_a_character_says_nothing():
    assert split_text(TOKENIZER, tokens_of("a\N{SNOWMAN}")) == ["a", "", "", "\N{SNOWMAN}", "", ""]
    assert split_text(TOKENIZER, tokens_of("")[:1]) == []


def test_rows_of_sequences():
    characters = CharacterTokenizer("ab ")
    chunks = [np.array([[[3, 5], [4, 4]]]), np.array([[[2, 0], [3, 5]]])]
    assert list(told(characters, iter(chunks))) == [[["a", "bb"]], [["", "a"]], [[" ", " "]]]
    assert list(told(characters, iter([]))) == []


def test_it_is_told_as_it_comes():
    def chunks():
        yield np.array([[[3]]])
        raise RuntimeError("nobody asked for more")

    spoken = told(CharacterTokenizer("ab"), chunks())
    assert next(spoken) == [["a"]]
    with pytest.raises(RuntimeError):
        next(spoken)
