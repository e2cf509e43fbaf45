"""Reversed sentences: what they are, and that no test sentence was trained on."""

from vitjax.data.config import DataConfig
from vitjax.data.datasets.reverse_words import ALPHABET, MAX_CHARACTERS
from vitjax.data.sources import build_source


def test_targets_are_sources_reversed_and_splits_are_disjoint(data_dir):
    seen = {}
    for split in ("train", "test"):
        source = build_source(DataConfig("reverse_words", data_dir=data_dir), split)
        pairs = [(source[place]["source"], source[place]["text"]) for place in range(len(source))]
        for given, wanted in pairs:
            assert given.split() == wanted.split()[::-1] and 2 <= len(given.split()) <= 5
            assert len(given) <= MAX_CHARACTERS and set(given) <= set(ALPHABET)
        seen[split] = {given for given, _ in pairs}
        assert len(seen[split]) == len(pairs)
    assert not seen["train"] & seen["test"]
