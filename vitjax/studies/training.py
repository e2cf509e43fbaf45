"""Fresh models and their training, as functions of seeds: the seeds of a study are trained side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.nn.functional import Tree, merge, split, stats_of
from vitjax.studies.study import Spread

Draw = Callable[[np.random.Generator, tuple[int, int]], Int[np.ndarray, "steps B"]]


@dataclass(frozen=True)
class Examples:
    """What a model reads, `inputs` [N, ...], and the class it must name, `answers` [N] or [N, T] for one a token."""

    inputs: np.ndarray
    answers: np.ndarray


def fresh(build: Callable[[nnx.Rngs], nnx.Module], seeds: tuple[int, ...]) -> tuple[nnx.GraphDef, Tree, Tree]:
    """A model initialised with each seed: what all share, and their parameters and statistics on a leading axis.

    Initialised outside any `jax.jit` on purpose: on CPU, random numbers take longer to compile than all else.
    """
    parts = [split(build(nnx.Rngs(seed))) for seed in seeds]
    params, stats = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        for trees in zip(*(p[1:] for p in parts), strict=True)
    )
    return parts[0][0], params, stats


def keys(seeds: tuple[int, ...]) -> Array:
    """A random key of each seed, other than those of `fresh`."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(jnp.array(seeds))


def train(
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    loss_of: Callable[[Any, Any], Array],
    batches: Any,
    *,
    rate: float,
) -> tuple[Tree, Tree, Float[Array, " steps"]]:
    """Parameters and statistics of one model after training with Adam, and the loss of each step.

    Args:
      loss_of: loss of a model on a batch.
      batches: arrays with a leading axis of steps, best drawn with numpy: see `fresh`.
      rate: learning rate, reached over the first tenth of the steps and falling to zero along a cosine.
    """
    steps = jax.tree.leaves(batches)[0].shape[0]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    optimizer = optax.adam(schedule)

    def loss_and_stats(params: Tree, stats: Tree, batch: Any) -> tuple[Array, Tree]:
        model = merge(definition, params, stats)
        return loss_of(model, batch), stats_of(model)

    def step(carry: tuple[Tree, Tree, Any], batch: Any) -> tuple[tuple[Tree, Tree, Any], Array]:
        params, stats, state = carry
        (loss, stats), gradients = jax.value_and_grad(loss_and_stats, has_aux=True)(params, stats, batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), stats, state), loss

    (params, stats, _), losses = jax.lax.scan(step, (params, stats, optimizer.init(params)), batches)
    return params, stats, losses


@dataclass(frozen=True)
class Trained:
    """Models of all seeds after training; parameters, statistics and `losses` [seeds, steps] on a leading axis."""

    definition: nnx.GraphDef
    params: Tree
    stats: Tree
    losses: Float[Array, "seeds steps"]

    def accuracy(self, held_out: Examples) -> Spread:
        """Share of right answers, in evaluation mode; the inputs may have another size than those of training."""
        return Spread.of(
            _accuracy(self.definition, self.params, self.stats, held_out.inputs, held_out.answers)
        )


def trained(
    build: Callable[[nnx.Rngs], nnx.Module],
    examples: Examples,
    seeds: tuple[int, ...],
    *,
    steps: int,
    batch: int = 32,
    rate: float = 2e-3,
    num_examples: int | None = None,
    draw: Draw | None = None,
) -> Trained:
    """Train a classifier, `model(inputs, train=...)`, with each seed.

    Args:
      num_examples: each seed learns from so many of the examples, which it chooses; None: from all.
      draw: chooses the examples of all batches, by their places [steps, B]; None: at random.
    """
    inputs, answers = jnp.asarray(examples.inputs), jnp.asarray(examples.answers)
    definition, params, stats = fresh(build, seeds)

    def at_random(rng: np.random.Generator, shape: tuple[int, int]) -> Int[np.ndarray, "steps B"]:
        return rng.choice(rng.permutation(len(inputs))[:num_examples], shape)

    chosen_by = draw or at_random
    batches = np.stack([chosen_by(np.random.default_rng(seed), (steps, batch)) for seed in seeds])
    return Trained(definition, *_trained(definition, params, stats, inputs, answers, batches, rate))


@partial(jax.jit, static_argnames=("definition", "rate"))  # compiled once for all models that are alike
def _trained(
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    inputs: Array,
    answers: Array,
    batches: Int[Array, "seeds steps B"],
    rate: float,
) -> tuple[Tree, Tree, Array]:
    def loss_of(model: Any, chosen: Int[Array, " B"]) -> Array:
        logits = model(inputs[chosen], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, answers[chosen]).mean()

    def one(params: Tree, stats: Tree, batches: Int[Array, "steps B"]) -> tuple[Tree, Tree, Array]:
        return train(definition, params, stats, loss_of, batches, rate=rate)

    return jax.vmap(one)(params, stats, batches)


@partial(jax.jit, static_argnames="definition")
def _accuracy(definition: nnx.GraphDef, params: Tree, stats: Tree, inputs: Array, answers: Array) -> Array:
    def one(params: Tree, stats: Tree) -> Array:
        logits = merge(definition, params, stats)(inputs, train=False)
        return (logits.argmax(-1) == answers).mean()

    return jax.vmap(one)(params, stats)
