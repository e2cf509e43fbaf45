"""Text to text: a few words, and the same words in reverse order. What a copy-and-reorder attention must learn."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vitjax.data.datasets.words import WORDS

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
COUNTS = {"train": 40_000, "test": 1_000}
SEED = 20_262
MAX_WORDS = 5
MAX_CHARACTERS = 30


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    """`count` different sentences of 2 to 5 words and at most 30 characters."""
    found: dict[str, None] = {}
    while len(found) < count:
        # Two words at least: single words would run out, and say nothing about order.
        sentence = " ".join(
            WORDS[index] for index in rng.integers(len(WORDS), size=rng.integers(2, MAX_WORDS + 1))
        )
        if len(sentence) <= MAX_CHARACTERS:
            found[sentence] = None
    return list(found)


class ReverseWords(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `reverse_words`: source `wind over river`, target `river over wind`.

    No sentence is in both splits.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "40,000 training and 1,000 test sentences."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Generated sentences of 2 to 5 English words, and the same words in reverse order.",
            features=tfds.features.FeaturesDict(
                {"source": tfds.features.Text(), "target": tfds.features.Text()}
            ),
            supervised_keys=("source", "target"),
            metadata=tfds.core.MetadataDict(alphabet=ALPHABET),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        everything = sentences(sum(COUNTS.values()), np.random.default_rng(SEED))
        return {
            "train": self._generate_examples(everything[COUNTS["test"] :]),
            "test": self._generate_examples(everything[: COUNTS["test"]]),
        }

    def _generate_examples(self, chosen: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for row, sentence in enumerate(chosen):
            yield row, {"source": sentence, "target": " ".join(reversed(sentence.split()))}
