"""The 1,797 real 8x8 handwritten digits that scikit-learn ships (Alpaydin & Kaynak 1998, UCI test set)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64, UInt8

from vitjax.data.datasets.encoding import png

TEST_DIGITS = 360
SPLIT_SEED = 0


@dataclass(frozen=True)
class DigitSet:
    """Real digits: `images` uint8 [N, 8, 8], `labels` [N], `index` [N] into scikit-learn's array."""

    images: UInt8[np.ndarray, "N 8 8"]
    labels: Int64[np.ndarray, " N"]
    index: Int64[np.ndarray, " N"]


def split_digits() -> dict[str, DigitSet]:
    """`train` (1,437) and `test` (360), stratified, always the same; every dataset made of digits splits here."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, 0 to 16, onto 0 to 255
    labels = digits.target.astype(np.int64)
    everything = np.arange(len(labels), dtype=np.int64)
    train, test = train_test_split(
        everything, test_size=TEST_DIGITS, stratify=labels, random_state=SPLIT_SEED
    )
    splits = {"train": train, "test": test}
    return {name: DigitSet(images[chosen], labels[chosen], chosen) for name, chosen in splits.items()}


class Digits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `digits`: image [8, 8, 1], label 0 to 9, index in scikit-learn's array."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "1,437 training and 360 test digits."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,797 real handwritten digits of 8 x 8 pixels, as scikit-learn ships them.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "index": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(digits) for split, digits in split_digits().items()}

    def _generate_examples(self, digits: DigitSet) -> Iterator[tuple[int, dict[str, Any]]]:
        for image, label, index in zip(digits.images, digits.labels, digits.index, strict=True):
            yield int(index), {"image": png(image), "label": int(label), "index": index}
