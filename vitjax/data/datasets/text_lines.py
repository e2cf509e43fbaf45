"""Lines of printed text, rendered with the DejaVu fonts that matplotlib ships: a small real OCR task."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vitjax.data.datasets.encoding import png
from vitjax.data.datasets.words import split_words

ALPHABET = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'-%()"
COUNTS = {"train": 20_000, "test": 1_000}
SEED = 20_263
HEIGHT, WIDTH = 32, 192
MAX_CHARACTERS = 20
SIZES = (12, 20)
"""Font sizes in pixels, smallest and largest."""
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf",
)
ROTATION = 1.5  # degrees, +-
SHEAR = 0.12  # +-
BLUR = 0.7  # pixels, largest radius
NOISE = 8.0  # grey levels, largest standard deviation; half of the lines are clean
SCRAMBLED = 0.25  # share of training words whose letters are shuffled: there, only looking helps
MARGIN = 4  # pixels kept free at each side


class Lines:
    """Draws lines of text and pictures of them; fonts are opened once."""

    def __init__(self, words: tuple[str, ...], forbidden: frozenset[str], scrambled: float) -> None:
        self.words, self.forbidden, self.scrambled = words, forbidden, scrambled
        folder = font_folder()
        self.fonts = [
            [
                ImageFont.truetype(str(folder / name), size, layout_engine=ImageFont.Layout.BASIC)
                for size in range(SIZES[0], SIZES[1] + 1)
            ]
            for name in FONTS
        ]
        self._advances: dict[tuple[int, str], float] = {}

    def text(self, rng: np.random.Generator) -> str:
        """Words, numbers and punctuation, at most 20 characters."""
        line = self._token(rng)
        while rng.random() < 0.75:
            longer = f"{line} {self._token(rng)}"
            if len(longer) > MAX_CHARACTERS:
                break
            line = longer
        return line

    def _token(self, rng: np.random.Generator) -> str:
        kind = rng.random()
        if kind < 0.12:
            token = str(rng.integers(10 ** rng.integers(1, 5)))
            return token + "%" if rng.random() < 0.2 else token
        word = self.words[rng.integers(len(self.words))]
        if rng.random() < self.scrambled:
            shuffled = "".join(rng.permutation(list(word)))
            word = word if shuffled in self.forbidden else shuffled
        if kind < 0.35:
            word = word.capitalize()
        elif kind < 0.45:
            word = word.upper()
        finish = rng.random()
        if finish < 0.2:
            word += ".,:;!?"[rng.integers(6)]
        elif finish < 0.24:
            word = f"({word})"
        elif finish < 0.28:
            word += "'s"
        elif finish < 0.32:
            word = f"{word}-{rng.integers(100)}"
        return word

    def picture(self, text: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 [32, 192] and, for each character, its cell as int32 (left, top, right, bottom)."""
        sizes = self.fonts[rng.integers(len(self.fonts))]
        index = int(rng.integers(len(sizes)))
        while index > 0 and sizes[index].getlength(text) > WIDTH - 2 * MARGIN:
            index -= 1
        font = sizes[index]
        ends = self._ends(font, text)
        ascent, descent = font.getmetrics()
        left = rng.uniform(MARGIN, max(MARGIN + 0.01, WIDTH - MARGIN - ends[-1]))
        baseline = rng.uniform(ascent, max(ascent + 0.01, HEIGHT - descent))

        paper, ink = int(rng.integers(175, 256)), int(rng.integers(0, 96))
        page = Image.new("L", (WIDTH, HEIGHT), paper)
        ImageDraw.Draw(page).text((left, baseline), text, fill=ink, font=font, anchor="ls")
        matrix = _tilt(rng)
        page = page.transform(
            page.size,
            Image.Transform.AFFINE,
            matrix.reshape(-1).tolist(),
            Image.Resampling.BICUBIC,
            fillcolor=paper,
        )
        page = page.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
        noise = rng.standard_normal((HEIGHT, WIDTH), np.float32) * np.float32(
            max(0.0, rng.uniform(-NOISE, NOISE))
        )
        pixels = np.clip(np.rint(np.asarray(page, np.float32) + noise), 0, 255).astype(np.uint8)

        rows = np.ones(len(text)) * baseline
        corners = np.stack([left + ends[:-1], rows - ascent, left + ends[1:], rows + descent], axis=-1)
        return pixels, _moved(corners, matrix)

    def _ends(self, font: ImageFont.FreeTypeFont, text: str) -> np.ndarray:
        """Where each character starts and the last one ends: advances, stretched a little for kerning."""
        advances = []
        for character in text:
            key = (id(font), character)
            if key not in self._advances:
                self._advances[key] = font.getlength(character)
            advances.append(self._advances[key])
        ends = np.cumsum([0.0, *advances])
        return ends * (font.getlength(text) / ends[-1])


def _tilt(rng: np.random.Generator) -> np.ndarray:
    """Map [2, 3] from output to input pixels of a slight rotation and slant about the middle."""
    angle, shear = math.radians(rng.uniform(-ROTATION, ROTATION)), rng.uniform(-SHEAR, SHEAR)
    linear = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ [
        [1, shear],
        [0, 1],
    ]
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    return np.concatenate([linear, (middle - linear @ middle)[:, None]], axis=1)


def _moved(corners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Cells [N, 4] as they lie on the tilted page: the middle of each is moved, its size kept."""
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    moved = (middle - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    cells = corners + np.tile(moved - middle, 2)
    return np.rint(np.clip(cells, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])).astype(np.int32)


def font_folder() -> Path:
    """Where matplotlib keeps its fonts, without importing it."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ValueError("text_lines is drawn with the fonts that matplotlib ships: install matplotlib")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


class TextLines(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `text_lines`: image [32, 192, 1], text of at most 20 characters.

    The words of test lines occur in no training line. `boxes` are the characters' cells as (left, top, right,
    bottom) in pixels, good to about one pixel.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "20,000 training and 1,000 test lines."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Printed words, numbers and punctuation in six DejaVu fonts of 12 to 20 pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(HEIGHT, WIDTH, 1), encoding_format="png"),
                    "text": tfds.features.Text(),
                    "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.int32),
                }
            ),
            supervised_keys=("image", "text"),
            metadata=tfds.core.MetadataDict(alphabet=ALPHABET),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        train, held_out = split_words()
        if split == "train":
            lines = Lines(train, frozenset(held_out), SCRAMBLED)
        else:
            lines = Lines(held_out, frozenset(), 0.0)
        rng = np.random.default_rng([SEED, split == "train"])
        for row in range(COUNTS[split]):
            text = lines.text(rng)
            pixels, boxes = lines.picture(text, rng)
            yield row, {"image": png(pixels), "text": text, "boxes": boxes}
