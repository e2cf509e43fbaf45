"""Parameters for tests, and gradients held against differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.test_util import check_grads

from vitjax.nn import functional


def scramble(tree: Any, *, seed: int = 0, scale: float = 0.3) -> Any:
    """Add noise to every array, so that zero biases, unit scales and empty heads hide no mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0, scale, leaf.shape), leaf.dtype), tree)


def parts(build: Callable[[nnx.Rngs], nnx.Module], *, seed: int = 0, scale: float = 0.3) -> tuple[Any, Any, Any]:
    """`(definition, scrambled params, stats)` of a module."""

    @jax.jit
    def initial(key: jax.Array) -> tuple[Any, Any]:
        return functional.initialize(build, key)

    params, stats = initial(jax.random.key(seed))
    return functional.abstract(build)[0], scramble(params, seed=seed, scale=scale), stats


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def gradients_match(function: Callable[..., jax.Array], *args: Any, eps: float = 3e-3) -> None:
    """`check_grads` in float32: the step balances rounding against curvature, so the tolerance can be tight."""
    check_grads(jax.jit(function), args, order=1, modes=("fwd", "rev"), eps=eps, atol=2e-3, rtol=2e-3)
