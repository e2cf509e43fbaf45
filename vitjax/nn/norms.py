"""Normalisation. Each norm is called as `norm(x, train=...)`, so that a block need not know which one it holds."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

NormKind = Literal["layer", "rms", "batch"]


class LayerNorm(nnx.LayerNorm):
    """Normalise each token over its features (Ba et al. 2016); mean and variance in float32."""

    def __call__(self, x: Float[Array, "... D"], *, train: bool) -> Float[Array, "... D"]:
        return super().__call__(x)


class RMSNorm(nnx.RMSNorm):
    """LayerNorm without centring and bias (Zhang and Sennrich 2019); the mean square in float32."""

    def __call__(self, x: Float[Array, "... D"], *, train: bool) -> Float[Array, "... D"]:
        return super().__call__(x)


class BatchNorm(nnx.BatchNorm):
    """Normalise each feature over all other axes (Ioffe and Szegedy 2015).

    In train mode uses the statistics of the whole (global) batch and updates `mean` and `var`, the stats that
    `functional.split` returns; otherwise uses those.
    """

    def __call__(self, x: Float[Array, "... D"], *, train: bool) -> Float[Array, "... D"]:
        return super().__call__(x, use_running_average=not train)


def make_norm(
    kind: NormKind, width: int, *, epsilon: float = 1e-6, dtype: str = "float32", rngs: nnx.Rngs
) -> LayerNorm | RMSNorm | BatchNorm:
    """A norm over features of size `width`; statistics in float32, output in `dtype`."""
    common = dict(epsilon=epsilon, dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=rngs)
    match kind:
        case "layer":
            return LayerNorm(width, use_fast_variance=False, **common)
        case "rms":
            return RMSNorm(width, **common)
        case "batch":
            return BatchNorm(width, momentum=0.9, use_fast_variance=False, **common)
    raise ValueError(f"norm {kind!r} is not one of layer, rms, batch")
