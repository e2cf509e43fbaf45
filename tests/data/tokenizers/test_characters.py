"""Characters to tokens and back."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.data.tokenizers import UNKNOWN, CharacterTokenizer, Tokenizer
from vitjax.data.tokenizers.protocol import stack_rows

ALPHABET = "abc é☃0"
TOKENIZER = CharacterTokenizer(ALPHABET)
TEXTS = st.text(alphabet=ALPHABET, max_size=12)


@given(TEXTS, st.integers(0, 5))
def test_decode_undoes_encode_with_any_padding(text, padding):
    tokens = TOKENIZER.encode(text, len(text) + 2 + padding)
    assert tokens.dtype == np.int32 and tokens.shape == (len(text) + 2 + padding,)
    assert tokens[0] == TOKENIZER.bos and tokens[len(text) + 1] == TOKENIZER.eos
    assert (tokens[len(text) + 2 :] == TOKENIZER.pad).all()
    assert TOKENIZER.decode(tokens) == text


@given(st.lists(TEXTS, max_size=5))
def test_a_batch_is_its_rows(texts):
    tokens = TOKENIZER.encode_batch(texts, 14)
    assert tokens.shape == (len(texts), 14)
    assert TOKENIZER.decode_batch(tokens) == texts
    if texts:
        assert TOKENIZER.encode_batch(texts).shape[1] == max(map(len, texts)) + 2


def test_the_layout_of_tokens_is_fixed():
    assert TOKENIZER.encode("ab", 6).tolist() == [1, 3, 4, 2, 0, 0]
    assert TOKENIZER.encode_source("ab", 6).tolist() == [3, 4, 0, 0, 0, 0]
    assert TOKENIZER.vocab_size == 3 + len(ALPHABET)


def test_decode_stops_at_the_end_and_marks_what_it_does_not_know():
    assert TOKENIZER.decode([1, 3, 99, 4, 2, 5]) == f"a{UNKNOWN}b"


def test_a_character_outside_the_alphabet_is_named():
    with pytest.raises(ValueError, match="'z'.*alphabet") as caught:
        TOKENIZER.encode("abz")
    assert "\n" not in str(caught.value)


def test_a_text_that_does_not_fit_is_refused_rather_than_cut():
    with pytest.raises(ValueError, match="takes 5 tokens, max_length is 4"):
        TOKENIZER.encode("abc", 4)


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_an_ambiguous_alphabet_is_refused(alphabet):
    with pytest.raises(ValueError, match="each character once"):
        CharacterTokenizer(alphabet)


def test_it_travels_as_json():
    assert CharacterTokenizer.from_dict(json.loads(json.dumps(TOKENIZER.to_dict()))) == TOKENIZER
    with pytest.raises(ValueError, match="not a character tokenizer"):
        CharacterTokenizer.from_dict({"kind": "words", "alphabet": "ab"})


def test_it_is_a_tokenizer_and_others_are_not():
    assert isinstance(TOKENIZER, Tokenizer)
    assert not isinstance(ALPHABET, Tokenizer)


def test_rows_are_told_apart_from_their_filler():
    tokens, mask = stack_rows([np.array([3, 0, 4]), np.zeros(0, np.int32), np.array([0])], 0)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[3, 0, 4], [0, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    tokens, mask = stack_rows([np.array([5])], 9, length=3)
    assert tokens.tolist() == [[5, 9, 9]] and mask.tolist() == [[True, False, False]]
    assert [each.shape for each in stack_rows([], 0, length=4)] == [(0, 4), (0, 4)]
