"""Fresh models and their training as pure functions of seeds, so that a study can `jax.vmap` over them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from vitjax.nn.functional import Tree, merge, split


def fresh(build: Callable[[nnx.Rngs], nnx.Module], seeds: tuple[int, ...]) -> tuple[nnx.GraphDef, Tree]:
    """A model initialised with each seed: what all share, and their parameters on a leading axis.

    Initialised outside any `jax.jit` on purpose: on CPU, random numbers take longer to compile than all else.
    """
    parts = [split(build(nnx.Rngs(seed))) for seed in seeds]
    if parts[0][2]:
        raise ValueError("fresh takes models without running statistics: this one has BatchNorm")
    return parts[0][0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params, _ in parts))


def keys(seeds: tuple[int, ...]) -> Array:
    """A random key of each seed, other than those of `fresh`."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(jnp.array(seeds))


def train(
    definition: nnx.GraphDef,
    params: Tree,
    loss_of: Callable[[Any, Any], Array],
    batches: Any,
    *,
    rate: float,
) -> tuple[Tree, Float[Array, " steps"]]:
    """Parameters after training with Adam, and the loss of each step.

    Args:
      loss_of: loss of a model on a batch.
      batches: arrays with a leading axis of steps, best drawn with numpy: see `fresh`.
      rate: learning rate, reached over the first tenth of the steps and falling to zero along a cosine.
    """
    steps = jax.tree.leaves(batches)[0].shape[0]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    optimizer = optax.adam(schedule)

    def step(carry: tuple[Tree, Any], batch: Any) -> tuple[tuple[Tree, Any], Array]:
        params, state = carry
        loss, gradients = jax.value_and_grad(lambda p: loss_of(merge(definition, p), batch))(params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params, losses
