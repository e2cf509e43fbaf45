"""Vectors on a grid, made for another grid: the ways of resampling that published models were fine-tuned with.

A way is separable, so it is two matrices: one over rows, one over columns. They are made in NumPy at trace time, but
for batches of images of many sizes.
"""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int]
Numbers = np.ndarray | Array

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
    return np.asarray(resampling_weights(np.arange(target), source, np.asarray(target), interpolation))


def resampling_weights(
    cells: Numbers, source: int, target: Numbers, interpolation: Interpolation
) -> Float[Numbers, "*M N"]:
    """Rows of `resampling_matrix`: the weights of `source` samples in given `cells` of `target` ones.

    Args:
      cells, target: arrays that broadcast, of NumPy, or of JAX where images of many sizes are in one compiled batch.
    """
    if interpolation == "linear_corners":
        places = cells * (source - 1) / (target - 1).clip(1)
        return _triangle(places[..., None] - np.arange(source))
    antialias = interpolation.endswith("antialias")
    stretch = (source / target).clip(1) if antialias else np.ones(1)
    places = (cells + 0.5) * source / target - 0.5
    samples = np.arange(-2, source + 2)
    distance = (places[..., None] - samples) / stretch[..., None]
    if interpolation.startswith("bilinear"):
        weights = _triangle(distance)
    else:
        weights = _cubic(distance, -0.5 if antialias else -0.75)
    inside, before, after = weights[..., 2:-2], weights[..., :2], weights[..., -2:]
    # Samples beyond the border: torch repeats the outermost one, Pillow's filters leave them out.
    if antialias:
        return inside / inside.sum(-1, keepdims=True)
    first, *_, last = np.eye(source) if source > 1 else np.ones((2, 1))
    return inside + before.sum(-1, keepdims=True) * first + after.sum(-1, keepdims=True) * last


def _triangle(distance: Any) -> Any:
    return (1 - abs(distance)).clip(0)


def _cubic(distance: Any, a: float) -> Any:
    """Cubic convolution (Keys 1981)."""
    x = abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return near * (x <= 1) + far * ((x > 1) & (x < 2))
