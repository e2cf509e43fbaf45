"""Parameters for tests, and gradients held against differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.test_util import check_grads

from vitjax.nn import functional


def parts(
    build: Callable[[nnx.Rngs], nnx.Module], *, seed: int = 0, scale: float = 0.35
) -> tuple[Any, Any, Any]:
    """`(definition, params, stats)` of a module whose every parameter is random.

    Nothing is zero or one, so that zero biases, unit scales and empty heads hide no mistake; and the module's own
    initialisation, slower to compile than most of the programs under test, is left out.
    """
    definition, params, stats = functional.abstract(build)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(centre, scale, leaf.shape), leaf.dtype)

    def fresh(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.full(leaf.shape, 1.0 if path[-1].key == "var" else 0.0, leaf.dtype)

    tree_map = jax.tree_util.tree_map_with_path
    return definition, tree_map(draw, params), tree_map(fresh, stats)


def initial(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Any, Any, Any]:
    """`(definition, params, stats)` as the module itself starts."""
    start = jax.jit(lambda key: functional.initialize(build, key))
    return functional.abstract(build)[0], *start(jax.random.key(0, impl="rbg"))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def gradients_match(function: Callable[..., jax.Array], *args: Any, eps: float = 1e-3) -> None:
    """`check_grads` in float32, with a step that balances rounding against curvature."""
    check_grads(jax.jit(function), args, order=1, modes=("rev",), eps=eps, atol=2e-3, rtol=2e-3)
