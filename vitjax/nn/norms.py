"""Normalisation. Each norm is called as `norm(x, train=...)`, so that a block need not know which one it holds."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

NormKind = Literal["layer", "rms", "batch"]


class LayerNorm(nnx.LayerNorm):
    """Normalise each token over its features (Ba et al. 2016); mean and variance in float32."""

    def __call__(  # type: ignore[override]  # one signature for all norms
        self, x: Float[Array, "... D"], *, train: bool
    ) -> Float[Array, "... D"]:
        return super().__call__(x)


class RMSNorm(nnx.RMSNorm):
    """LayerNorm without centring and bias (Zhang and Sennrich 2019); the mean square in float32."""

    def __call__(  # type: ignore[override]  # one signature for all norms
        self, x: Float[Array, "... D"], *, train: bool
    ) -> Float[Array, "... D"]:
        return super().__call__(x)


class BatchNorm(nnx.BatchNorm):
    """Normalise each feature over all other axes (Ioffe and Szegedy 2015).

    In train mode uses the statistics of the whole (global) batch and updates `mean` and `var`, the stats that
    `functional.split` returns; otherwise uses those. Momentum 0.9, which torch calls 0.1. With `zero_scale` a residual
    branch that ends in this norm begins as nothing.
    """

    def __init__(
        self,
        width: int,
        *,
        epsilon: float = 1e-5,
        zero_scale: bool = False,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        # In a lower dtype flax would round the running statistics too: up to a quarter of a deviation in bfloat16.
        super().__init__(
            width,
            epsilon=epsilon,
            momentum=0.9,
            use_fast_variance=False,
            scale_init=nnx.initializers.zeros if zero_scale else nnx.initializers.ones,
            dtype=jnp.promote_types(dtype, jnp.float32),
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.output_dtype = jnp.dtype(dtype)

    def __call__(  # type: ignore[override]  # one signature for all norms
        self, x: Float[Array, "... D"], *, train: bool
    ) -> Float[Array, "... D"]:
        return super().__call__(x, use_running_average=not train).astype(self.output_dtype)


def make_norm(
    kind: NormKind, width: int, *, epsilon: float = 1e-6, dtype: str = "float32", rngs: nnx.Rngs
) -> LayerNorm | RMSNorm | BatchNorm:
    """A norm over features of size `width`; statistics in float32, output in `dtype`."""
    common: dict[str, Any] = dict(epsilon=epsilon, dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=rngs)
    match kind:
        case "layer":
            return LayerNorm(width, use_fast_variance=False, **common)
        case "rms":
            return RMSNorm(width, **common)
        case "batch":
            return BatchNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
    raise ValueError(f"norm {kind!r} is not one of layer, rms, batch")
