"""Vectors on a grid, made for another grid: the ways of resampling that published models were fine-tuned with.

A way is separable, so it is two matrices, made in NumPy at trace time: one over rows, one over columns.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int]

Interpolation = Literal["bicubic", "bicubic_antialias", "bilinear", "bilinear_antialias", "linear_corners"]
"""`bicubic` and `bilinear` are torch's `interpolate` (cubic with a = -0.75; transformers). With `_antialias` a smaller
grid averages over all it covers, and a is -0.5 (timm; Pillow's filters). `linear_corners` keeps corner on corner
(big_vision, by SciPy's `zoom`)."""


def interpolate_grid(
    embedding: Float[Array, "N D"], source: Grid, target: Grid, interpolation: Interpolation
) -> Float[Array, "M D"]:
    """Resample the vectors of a `source` grid to a `target` grid (Dosovitskiy et al. 2021, 3.2)."""
    if source == target:
        return embedding
    rows, columns = (
        jnp.asarray(resampling_matrix(*sizes, interpolation), embedding.dtype)
        for sizes in zip(source, target, strict=True)
    )
    image = embedding.reshape(*source, -1)
    return jnp.einsum("yh,xw,hwd->yxd", rows, columns, image, precision="highest").reshape(
        target[0] * target[1], -1
    )


def resampling_matrix(source: int, target: int, interpolation: Interpolation) -> Float[np.ndarray, "M N"]:
    """The weight of each of `source` samples in each of `target` ones, in float64; rows sum to 1."""
    if interpolation == "linear_corners":
        places = np.linspace(0, source - 1, target)[:, None]
        return _triangle(places - np.arange(source))
    antialias = interpolation.endswith("antialias")
    stretch = max(source / target, 1.0) if antialias else 1.0
    places = (np.arange(target)[:, None] + 0.5) * source / target - 0.5
    # Samples beyond the border: torch repeats the outermost one, Pillow's filters leave them out.
    reach = math.ceil(2 * stretch)
    samples = np.arange(-reach, source + reach)
    distance = (places - samples) / stretch
    if interpolation.startswith("bilinear"):
        weights = _triangle(distance)
    else:
        weights = _cubic(distance, -0.5 if antialias else -0.75)
    if antialias:
        weights = weights[:, reach:-reach]
        return weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((target, source))
    np.add.at(matrix.T, np.clip(samples, 0, source - 1), weights.T)
    return matrix


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution (Keys 1981)."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
