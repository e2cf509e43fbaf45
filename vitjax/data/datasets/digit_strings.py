"""Strings of real handwritten digits on a canvas: the image-to-text task that trains in minutes on a CPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64, UInt8

from vitjax.data.datasets.digits import DigitSet, split_digits
from vitjax.data.datasets.distortion import BOX, CELL, Distortion, distort, undistorted
from vitjax.data.datasets.encoding import png

# Prepared data is found by its version: whatever changes an image or a label below needs a new VERSION.
ALPHABET = "0123456789"
COUNTS = {"train": 60_000, "test": 2_000}
SEED = 20_261
MAX_DIGITS = 6
GAPS = (-2, 5)
"""Pixels between neighbouring 8x8 cells. Most digits leave a column blank at each side: at -2 the strokes touch."""
VERTICAL_JITTER = 2
"""Pixels up or down from the string's own height on the canvas, for each digit."""
DISTORTION = Distortion()
"""How training digits are changed; test digits never are."""
MARGIN = (BOX - CELL) // 2
CHUNK = 4_096  # strings rendered at a time, so that memory stays small


@dataclass
class CanvasConfig(tfds.core.BuilderConfig):
    """Height and width of the canvas, in pixels; digits stay 8x8."""

    height: int = 16
    width: int = 64


@dataclass(frozen=True)
class Strings:
    """Rendered strings: `images` uint8 [N, H, W]; cell of digit k of string n at `x`, `y` [N, 6], -1 past `lengths`."""

    images: UInt8[np.ndarray, "N H W"]
    labels: Int64[np.ndarray, "N 6"]
    index: Int64[np.ndarray, "N 6"]
    lengths: Int64[np.ndarray, " N"]
    x: Int64[np.ndarray, "N 6"]
    y: Int64[np.ndarray, "N 6"]


def render(
    digits: DigitSet,
    count: int,
    height: int,
    width: int,
    distortion: Distortion | None,
    rng: np.random.Generator,
) -> Strings:
    """`count` strings of 1 to 6 of `digits`, each used about equally often; without `distortion` as they are."""
    lengths = rng.integers(1, MAX_DIGITS + 1, count)
    used = np.arange(MAX_DIGITS) < lengths[:, None]  # [N, 6]
    chosen = _evenly(len(digits.labels), count * MAX_DIGITS, rng).reshape(count, MAX_DIGITS)
    x = _columns(used, width, rng)
    height_left = height - CELL
    y = rng.integers(0, height_left + 1, (count, 1))
    y = np.clip(y + rng.integers(-VERTICAL_JITTER, VERTICAL_JITTER + 1, used.shape), 0, height_left)

    sources = digits.images.astype(np.float32) / 255
    canvas = np.zeros((count, height + 2 * MARGIN, width + 2 * MARGIN), np.float32)
    box = np.arange(BOX)
    for place in range(MAX_DIGITS):
        rows = np.nonzero(used[:, place])[0]
        for part in np.array_split(rows, max(1, len(rows) // CHUNK)):
            cells = sources[chosen[part, place]]
            strokes = distort(cells, distortion, rng) if distortion else undistorted(cells)
            rows_at, columns_at = y[part, place, None] + box, x[part, place, None] + box
            at = (part[:, None, None], rows_at[:, :, None], columns_at[:, None, :])
            canvas[at] = np.maximum(canvas[at], strokes)
    images = np.rint(canvas[:, MARGIN : MARGIN + height, MARGIN : MARGIN + width] * 255).astype(np.uint8)

    def hide(values: np.ndarray) -> Int64[np.ndarray, "N 6"]:
        return np.where(used, values, -1).astype(np.int64)

    return Strings(images, hide(digits.labels[chosen]), hide(digits.index[chosen]), lengths, hide(x), hide(y))


def _evenly(choices: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " count"]:
    rounds = -(-count // choices)
    return np.concatenate([rng.permutation(choices) for _ in range(rounds)])[:count]


def _columns(used: np.ndarray, width: int, rng: np.random.Generator) -> Int64[np.ndarray, "N 6"]:
    """Left edges of the cells: random gaps, drawn again until the string fits, then a random place on the canvas."""
    gaps = rng.integers(GAPS[0], GAPS[1] + 1, used.shape)
    gaps[:, 0] = 0
    while True:
        total = np.where(used, CELL + gaps, 0).sum(1)
        wide = total > width
        if not wide.any():
            break
        gaps[wide, 1:] = rng.integers(GAPS[0], GAPS[1] + 1, (wide.sum(), MAX_DIGITS - 1))
    start = np.floor(rng.random(len(used)) * (width - total + 1)).astype(np.int64)
    return start[:, None] + np.cumsum(CELL + gaps, axis=1) - CELL


class DigitStrings(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `digit_strings`, configs `16x64` (default) and `32x128`.

    Training strings hold training digits of `digits` only, each distorted on its own; test strings hold test
    digits only, as they are. `boxes` are the 8x8 cells as (left, top, right, bottom) in pixels, `digits` their
    places in scikit-learn's array; both have a row a character.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "60,000 training and 2,000 test strings."}
    BUILDER_CONFIGS = [
        CanvasConfig(name="16x64", description="16 x 64 pixels", height=16, width=64),
        CanvasConfig(name="32x128", description="32 x 128 pixels", height=32, width=128),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        canvas = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Strings of 1 to 6 real handwritten digits, jittered in place, touching or spaced.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(canvas.height, canvas.width, 1), encoding_format="png"
                    ),
                    "text": tfds.features.Text(),
                    "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.int32),
                    "digits": tfds.features.Tensor(shape=(None,), dtype=np.int64),
                }
            ),
            supervised_keys=("image", "text"),
            metadata=tfds.core.MetadataDict(alphabet=ALPHABET),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split, digits) for split, digits in split_digits().items()}

    def _generate_examples(self, split: str, digits: DigitSet) -> Iterator[tuple[int, dict[str, Any]]]:
        canvas = self.builder_config
        rng = np.random.default_rng([SEED, split == "train"])
        distortion = DISTORTION if split == "train" else None
        strings = render(digits, COUNTS[split], canvas.height, canvas.width, distortion, rng)
        corners = np.stack([strings.x, strings.y, strings.x + CELL, strings.y + CELL], -1).astype(np.int32)
        for row, length in enumerate(strings.lengths):
            example = {
                "image": png(strings.images[row]),
                "text": "".join(map(str, strings.labels[row, :length])),
                "boxes": corners[row, :length],
                "digits": strings.index[row, :length],
            }
            yield row, example
