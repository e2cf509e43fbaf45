"""Dropout and stochastic depth with explicit keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout(x: Array, rate: float, *, train: bool, key: Array | None) -> Array:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate) (Srivastava et al. 2014)."""
    if not train or rate == 0.0:
        return x
    if key is None:
        raise ValueError(f"dropout rate {rate} in train mode needs a key: pass key=jax.random.key(...)")
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def stochastic_depth(
    x: Float[Array, "B ..."], rate: float | Array, *, train: bool, key: Array | None
) -> Float[Array, "B ..."]:
    """Drop a residual branch for whole examples with probability `rate` (Huang et al. 2016; DropPath in timm).

    `rate` may be traced, since it grows with depth and layers are scanned.
    """
    if not train:
        return x
    if key is None:
        raise ValueError("stochastic depth in train mode needs a key: pass key=jax.random.key(...)")
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def split_key(key: Array | None, count: int) -> list[Array | None]:
    """`count` independent keys, or `count` times None."""
    return [None] * count if key is None else list(jax.random.split(key, count))
