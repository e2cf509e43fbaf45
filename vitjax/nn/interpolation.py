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

Interpolation = Literal[
    "bicubic", "bicubic_antialias", "bilinear", "bilinear_antialias", "linear_corners", "linear_geometric"
]
"""`bicubic` and `bilinear` are torch's `interpolate` (cubic with a = -0.75; transformers). With `_antialias` a smaller
grid averages over all it covers, and a is -0.5 (timm; Pillow's filters). `linear_corners` keeps corner on corner
(big_vision, by SciPy's `zoom`). `linear_geometric` keeps the middle of a table of offsets as it is, and spreads what is
around it further and further out (BEiT; timm)."""


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
    if interpolation == "linear_geometric":
        return _geometric_matrix(source, target)
    return np.asarray(resampling_weights(np.arange(target), source, np.asarray(target), interpolation))


def resampling_weights(
    cells: Numbers, source: int, target: Numbers, interpolation: Interpolation
) -> Float[Numbers, "*M N"]:
    """Rows of `resampling_matrix`, of all but `linear_geometric`: the weights in some of the target cells.

    Args:
      cells: which of the target cells.
      target: an array that broadcasts with `cells`, both of NumPy, or of JAX where images of many sizes are in one
        compiled batch.
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


def _geometric_matrix(source: int, target: int) -> Float[np.ndarray, "M N"]:
    """Offsets of the source grow from the middle by 1, q, q^2, ..., to reach the outermost of the target.

    The ratio q is found between 1.01 and 1.5, as in BEiT's code: a smaller target is a cut out of the middle.
    """
    half, low, high = source // 2, 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**half) / (1 - ratio) > target // 2:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(half))  # 1, 1 + q, 1 + q + q^2, ...
    places = np.concatenate([-steps[::-1], [0.0], steps])
    wanted = np.arange(target) - target // 2
    return np.stack([np.interp(wanted, places, row) for row in np.eye(source)], axis=1)


def _triangle(distance: Any) -> Any:
    return (1 - abs(distance)).clip(0)


def _cubic(distance: Any, a: float) -> Any:
    """Cubic convolution (Keys 1981)."""
    x = abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return near * (x <= 1) + far * ((x > 1) & (x < 2))
