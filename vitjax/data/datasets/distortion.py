"""Random handwriting distortion of many small digits at once, in numpy.

Augmenting a whole image of a string cannot vary its digits independently, so the training strings have it
baked in. Test strings are never distorted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

BOX = 12  # a distorted 8x8 digit lives in 12x12: room to turn and grow
CELL = 8
PADDING = 4  # zeros around the source, so that every bilinear tap falls inside


@dataclass(frozen=True)
class Distortion:
    """Bounds of the even draws made for each digit; `elastic` and `noise` are standard deviations."""

    rotation: float = 12.0
    """Degrees."""
    shear: float = 0.15
    """Horizontal shear; half of it vertically."""
    scale: float = 0.10
    """Log of the size of each side."""
    stretch: float = 0.08
    """Log of a further change of each side."""
    shift: float = 0.5
    """Pixels, beyond the whole-pixel jitter of the layout."""
    elastic: float = 0.25
    """Pixels, of a smooth displacement field (4 x 4 knots)."""
    gain: float = 0.15
    """Relative stroke intensity."""
    gamma: float = 0.0
    """Log of the exponent on intensities: thinner or bolder strokes."""
    noise: float = 0.0
    """Additive, on the strokes, of intensities 0 to 1."""


def distort(
    digits: Float32[np.ndarray, "N 8 8"], distortion: Distortion, rng: np.random.Generator
) -> Float32[np.ndarray, "N 12 12"]:
    """Each digit (intensities 0 to 1) changed in its own way, by bilinear sampling."""
    count = len(digits)

    def draw(bound: float) -> Float32[np.ndarray, " N"]:
        return rng.uniform(-bound, bound, count).astype(np.float32)

    angle = np.deg2rad(draw(distortion.rotation))
    shear_x, shear_y = draw(distortion.shear), draw(distortion.shear / 2)
    scale_x = np.exp(draw(distortion.scale) + draw(distortion.stretch))
    scale_y = np.exp(draw(distortion.scale) + draw(distortion.stretch))
    cos, sin = np.cos(angle), np.sin(angle)
    # Output pixel -> source pixel, both from the middle: rotation @ [[1/scale_y, shear_y], [shear_x, 1/scale_x]].
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)  # [N, 2, 2]
    rest = np.stack([np.stack([1 / scale_y, shear_y], -1), np.stack([shear_x, 1 / scale_x], -1)], -2)
    inverse = rotation @ rest  # [N, 2, 2]
    grid = np.arange(BOX, dtype=np.float32) - (BOX - 1) / 2
    target = np.stack(np.meshgrid(grid, grid, indexing="ij")).reshape(2, -1)  # [2, BOX*BOX] as (y, x)
    source = (inverse @ target).reshape(count, 2, BOX, BOX)
    source += np.stack([draw(distortion.shift), draw(distortion.shift)], -1)[:, :, None, None]
    if distortion.elastic:
        source += _smooth_field(count, distortion.elastic, rng)
    strokes = _sample(digits, source + np.float32((CELL - 1) / 2 + PADDING))
    if distortion.gamma:
        strokes = strokes ** np.exp(draw(distortion.gamma))[:, None, None]
    if distortion.gain:
        strokes = strokes * (1 + draw(distortion.gain))[:, None, None]
    if distortion.noise:
        noise = rng.standard_normal(strokes.shape, np.float32) * np.float32(distortion.noise)
        strokes = strokes + (strokes > 0) * noise
    return np.clip(strokes, 0, 1)


def undistorted(digits: Float32[np.ndarray, "N 8 8"]) -> Float32[np.ndarray, "N 12 12"]:
    """The same digits in the middle of boxes of the same size."""
    margin = (BOX - CELL) // 2
    return np.pad(digits, ((0, 0), (margin, margin), (margin, margin)))


def _smooth_field(count: int, deviation: float, rng: np.random.Generator) -> Float32[np.ndarray, "N 2 12 12"]:
    knots = rng.standard_normal((count, 2, 4, 4), np.float32) * np.float32(deviation)
    place = np.linspace(0, 3, BOX, dtype=np.float32)
    left = np.minimum(place.astype(np.int64), 2)
    spread = np.zeros((BOX, 4), np.float32)
    spread[np.arange(BOX), left] = 1 - (place - left)
    spread[np.arange(BOX), left + 1] = place - left
    return spread @ knots @ spread.T


def _sample(
    digits: Float32[np.ndarray, "N 8 8"], source: Float[np.ndarray, "N 2 Y X"]
) -> Float32[np.ndarray, "N Y X"]:
    side = CELL + 2 * PADDING
    padded = np.pad(digits, ((0, 0), (PADDING, PADDING), (PADDING, PADDING))).reshape(-1)
    y, x = np.moveaxis(np.clip(source, 0, side - 1.001), 1, 0)  # [N, BOX, BOX] each
    top, left = y.astype(np.int32), x.astype(np.int32)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    corner = np.arange(len(digits), dtype=np.int32)[:, None, None] * (side * side) + top * side + left
    upper = padded[corner] * (1 - right) + padded[corner + 1] * right
    lower = padded[corner + side] * (1 - right) + padded[corner + side + 1] * right
    return upper * (1 - down) + lower * down
