"""Digits on paper larger than they are, so that they can be moved: handwritten ones, and printed ones, generated."""

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image

from vitjax.data.datasets.distortion import Distortion, distort
from vitjax.data.datasets.text_lines import Lines
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.training import Examples

PAPER = 16  # pixels a side
A_LINE, COPIES = 10, 8  # printed digits of a line, and how often each is distorted
DISTORTION = Distortion(
    rotation=20.0, shear=0.4, scale=0.2, stretch=0.2, shift=2.0, elastic=0.6, gain=0.2, gamma=0.7
)


def real_digits() -> tuple[Examples, Examples]:
    """Handwritten digits to learn from and held-out ones, in the middle: pixels [N, 16, 16, 1] from 0, paper, to 1."""
    learned, held_out = (
        Examples(on_paper((digits.inputs[..., 0] + 1) / 2, PAPER), digits.answers)
        for digits in digit_examples()
    )
    return learned, held_out


def printed_digits(lines: int, rng: np.random.Generator) -> Examples:
    """The digits of so many lines in six fonts, blurred and noisy, each distorted in eight ways.

    Unlike the real ones they lie up to two pixels off the middle.
    """
    printer = Lines((), frozenset(), 0.0)
    drawn = zip(*(_line(printer, rng) for _ in range(lines)), strict=True)
    digits, answers = (np.concatenate(COPIES * parts) for parts in drawn)
    return Examples(on_paper(distort(digits, DISTORTION, rng), PAPER), answers)


def on_paper(digits: Float32[np.ndarray, "N h h"], side: int) -> Float32[np.ndarray, "N H H 1"]:
    """Digits in the middle of larger paper."""
    margin = (side - digits.shape[1]) // 2
    return np.pad(digits, ((0, 0), (margin, margin), (margin, margin)))[..., None]


def shifted(examples: Examples, pixels: int) -> Examples:
    """Images moved up, down, left and right in turn; what leaves at a side enters at the other."""
    moved = examples.inputs.copy()
    for turn, move in enumerate(((-pixels, 0), (pixels, 0), (0, -pixels), (0, pixels))):
        moved[turn::4] = np.roll(examples.inputs[turn::4], move, axis=(1, 2))
    return Examples(moved, examples.answers)


def _line(
    printer: Lines, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "N 8 8"], Int64[np.ndarray, " N"]]:
    """The digits of one drawn line, each cut out as high as it is, scaled to 8 pixels, bright on black."""
    digits = rng.integers(0, 10, A_LINE)
    pixels, boxes = printer.picture(" ".join(map(str, digits)), rng)
    paper = np.median(pixels)
    ink = np.clip((paper - pixels) / (paper - pixels.min()), 0, 1).astype(np.float32)
    cells = []
    for left, top, right, bottom in boxes[::2]:
        rows = top + np.flatnonzero(ink[top:bottom, left:right].max(axis=1) > 0.4)
        half, middle = (rows[-1] + 1 - rows[0]) / 2, (left + right) / 2
        window = (middle - half, rows[0], middle + half, rows[-1] + 1)
        cell = np.asarray(Image.fromarray(ink).resize((8, 8), Image.Resampling.BOX, box=window))
        cells.append(np.minimum(1, 1.2 * cell / cell.max()))
    return np.stack(cells), digits
