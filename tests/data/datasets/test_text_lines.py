"""Printed lines: held-out words, labels within the alphabet, cells where the ink is."""

import re

import numpy as np
import pytest

from vitjax.data.config import DataConfig
from vitjax.data.datasets.text_lines import ALPHABET, FONTS, MAX_CHARACTERS, font_folder
from vitjax.data.datasets.words import WORDS, split_words
from vitjax.data.sources import build_source


def examples(data_dir, split):
    source = build_source(DataConfig("text_lines", data_dir=data_dir), split)
    return [source[place] for place in range(len(source))]


def words(text):
    # "don't" style endings are put on by the generator and are no words of the list.
    return re.findall("[a-z]+", re.sub("'s$|'s(?=[ ])", "", text, flags=re.IGNORECASE).lower())


def test_words_are_split_once_and_for_all():
    train, held_out = split_words()
    assert sorted([*train, *held_out]) == sorted(WORDS) and len(set(WORDS)) == len(WORDS)
    assert len(held_out) == round(0.15 * len(WORDS))


def test_no_training_line_has_a_held_out_word_and_test_lines_have_no_other(data_dir):
    _, held_out = split_words()
    assert not [
        word for example in examples(data_dir, "train") for word in words(example["text"]) if word in held_out
    ]
    assert not [
        word
        for example in examples(data_dir, "test")
        for word in words(example["text"])
        if word not in held_out
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_lines_are_readable(data_dir, split):
    for example in examples(data_dir, split):
        text, boxes, pixels = example["text"], example["boxes"], example["image"][..., 0].astype(float)
        assert pixels.shape == (32, 192) and 1 <= len(text) <= MAX_CHARACTERS and set(text) <= set(ALPHABET)
        assert len(boxes) == len(text) and (np.diff(boxes[:, 0]) >= 0).all()
        assert boxes.min() >= 0 and boxes[:, 2].max() <= 192 and boxes[:, 3].max() <= 32
        paper = np.median(pixels)
        inside = np.zeros(pixels.shape, bool)
        for left, top, right, bottom in boxes:
            inside[max(top - 1, 0) : bottom + 1, max(left - 2, 0) : right + 2] = True
        ink = pixels < paper - 40
        assert ink.sum() > 10 * len(text.replace(" ", "")) / 2
        assert ink[inside].sum() > 0.97 * ink.sum(), "ink lies where the cells say"


def test_the_fonts_are_there():
    assert not [name for name in FONTS if not (font_folder() / name).is_file()]
