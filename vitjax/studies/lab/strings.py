"""Short strings of handwritten digits, the smallest image-to-text task: three digits with random gaps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.studies.lab.training import Examples

DIGITS, SIDE, FREE, PATCH = 3, 8, 8, 2  # digits a string; pixels of a digit, left over, of a patch's width
WIDTH = DIGITS * SIDE + FREE
BLACK = -1.0
BEGIN = 10  # the token before the first digit


@dataclass(frozen=True)
class Strings:
    """Images of strings, the digits in them, and which columns belong to the box of each."""

    images: Float[np.ndarray, "N 8 W 1"]
    digits: Int[np.ndarray, "N T"]
    boxes: Bool[np.ndarray, "N T W"]


def strings(examples: Examples, count: int, rng: np.random.Generator) -> Strings:
    """Random digits side by side, with what is left of the width in random gaps."""
    chosen = rng.integers(0, len(examples.answers), (count, DIGITS))
    left = np.sort(rng.integers(0, FREE + 1, (count, DIGITS)), axis=1) + SIDE * np.arange(DIGITS)
    column = np.arange(WIDTH) - left[..., None]
    boxes = (column >= 0) & (column < SIDE)  # [N, T, W]
    images = np.full((count, SIDE, WIDTH, 1), BLACK, np.float32)
    for place in range(DIGITS):
        row, at = np.nonzero(boxes[:, place])
        images[row, :, at] = examples.inputs[chosen[row, place], :, column[row, place, at]]
    return Strings(images, examples.answers[chosen], boxes)
