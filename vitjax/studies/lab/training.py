"""Fresh models and their training, as functions of seeds: the seeds of a study are trained side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.nn.functional import Tree, abstract, merge, split, stats_of
from vitjax.studies.lab.study import Spread

T = TypeVar("T")
Draw = Callable[[np.random.Generator, tuple[int, int]], Int[np.ndarray, "steps B"]]


@dataclass(frozen=True)
class Examples:
    """What a model reads, `inputs` [N, ...], one array or a tuple of several, and the class it must name.

    That is `answers` [N], or [N, T] for one a token.
    """

    inputs: Any
    answers: np.ndarray


@runtime_checkable
class Config(Protocol):
    """Of a model, as those of `vitjax.models` are."""

    def build(self, *, rngs: nnx.Rngs) -> nnx.Module: ...


@dataclass(frozen=True)
class Build:
    """Makes a config of what has none: `Build(partial(MultiHeadAttention, 64, 4))`."""

    module: Callable[..., nnx.Module]

    def build(self, *, rngs: nnx.Rngs) -> nnx.Module:
        return self.module(rngs=rngs)


def fresh(config: Config, seeds: tuple[int, ...]) -> tuple[nnx.GraphDef, Tree, Tree]:
    """A model initialised with each seed: what all share, and their parameters and statistics on a leading axis.

    Initialised outside any `jax.jit`, and stacked by numpy, on purpose: on CPU, random numbers take longer to compile
    than all else, and each shape would be compiled anew.
    """
    parts = [split(config.build(rngs=nnx.Rngs(seed))) for seed in seeds]
    definitions, params, stats = zip(*parts, strict=True)
    return definitions[0], stacked(params), stacked(stats)


def definition_of(config: Config) -> nnx.GraphDef:
    """What all models of a config share; nothing is computed."""
    return abstract(lambda rngs: config.build(rngs=rngs))[0]


def stacked(trees: Sequence[T]) -> T:
    """One tree with a leading axis of seeds, of a tree for each."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def unstacked(tree: Tree) -> list[Tree]:
    """A tree for each seed, of numpy's arrays, of one whose leading axis they are."""
    whole = jax.device_get(tree)
    seeds = len(jax.tree.leaves(whole)[0])
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], whole) for seed in range(seeds)]


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
    stages: int | None = None,
) -> tuple[Tree, Tree, Float[Array, " steps"]]:
    """Parameters and statistics of one model after training with Adam, and the loss of each step.

    Args:
      loss_of: loss of a model on a batch.
      batches: arrays with a leading axis of steps, best drawn with numpy: see `fresh`.
      rate: learning rate, reached over the first tenth of the steps and falling to zero along a cosine.
      stages: give parameters and statistics after each of so many equal parts of the steps, on a leading axis.
    """
    steps = jax.tree.leaves(batches)[0].shape[0]
    optimizer = optax.adam(_schedule(rate, steps))

    def step(carry: tuple[Tree, Tree, Any], batch: Any) -> tuple[tuple[Tree, Tree, Any], Array]:
        params, stats, state = carry
        loss, stats, gradients = _gradients(definition, params, stats, loss_of, batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), stats, state), loss

    start = (params, stats, optimizer.init(params))
    if stages is None:
        (params, stats, _), losses = jax.lax.scan(step, start, batches)
        return params, stats, losses

    def stage(carry: tuple[Tree, Tree, Any], batches: Any) -> tuple[tuple[Tree, Tree, Any], tuple]:
        carry, losses = jax.lax.scan(step, carry, batches)
        return carry, (*carry[:2], losses)

    parts = jax.tree.map(lambda leaf: leaf.reshape(stages, steps // stages, *leaf.shape[1:]), batches)
    _, (params, stats, losses) = jax.lax.scan(stage, start, parts)
    return params, stats, losses.reshape(steps)


@dataclass(frozen=True)
class Trained:
    """Models of all seeds after training; parameters, statistics and `losses` [seeds, steps] on a leading axis.

    If `trained` was asked for stages, they are the second axis of parameters and statistics.
    """

    definition: nnx.GraphDef
    params: Tree
    stats: Tree
    losses: Float[Array, "seeds steps"]

    def named(self, inputs: Any) -> Int[np.ndarray, "seeds *answers"]:
        """Classes that the models name, in evaluation mode; inputs may have another size than those of training."""
        return np.asarray(_named(self.definition, self.params, self.stats, inputs))

    def accuracy(self, held_out: Examples) -> Spread:
        """Share of right answers."""
        return Spread.of((one == held_out.answers).mean() for one in self.named(held_out.inputs))


def trained(
    config: Config,
    examples: Examples,
    seeds: tuple[int, ...],
    *,
    steps: int,
    batch: int = 32,
    rate: float = 2e-3,
    num_examples: int | None = None,
    draw: Draw | None = None,
    stages: int | None = None,
) -> Trained:
    """Train a classifier, `model(inputs, train=...)`, with each seed.

    Args:
      num_examples: each seed learns from so many of the examples, which it chooses; None: from all.
      draw: chooses the examples of all batches, by their places [steps, B]; None: at random.
      stages: keep parameters and statistics after each of so many equal parts of the steps, see `train`.
    """
    whole = jax.tree.map(jnp.asarray, (examples.inputs, examples.answers))
    definition, params, stats = fresh(config, seeds)
    chosen_by = draw or _at_random(len(examples.answers), num_examples)
    batches = np.stack([chosen_by(np.random.default_rng(seed), (steps, batch)) for seed in seeds])
    return Trained(definition, *_trained(definition, params, stats, whole, batches, rate, stages))


# Compiled once for all models that are alike:
@partial(jax.jit, static_argnames=("definition", "rate", "stages"))
def _trained(
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    examples: tuple[Any, Array],
    batches: Int[Array, "seeds steps B"],
    rate: float,
    stages: int | None,
) -> tuple[Tree, Tree, Array]:
    def loss_of(model: Any, chosen: Int[Array, " B"]) -> Array:
        return cross_entropy(model, jax.tree.map(lambda array: array[chosen], examples))

    def one(params: Tree, stats: Tree, batches: Int[Array, "steps B"]) -> tuple[Tree, Tree, Array]:
        return train(definition, params, stats, loss_of, batches, rate=rate, stages=stages)

    return jax.vmap(one)(params, stats, batches)


@partial(jax.jit, static_argnames="definition")
def _named(definition: nnx.GraphDef, params: Tree, stats: Tree, inputs: Any) -> Array:
    return jax.vmap(lambda *state: merge(definition, *state)(inputs, train=False).argmax(-1))(params, stats)


class Loop:
    """Trains classifiers of one config, `model(inputs, train=...)`, by a Python loop of one compiled step.

    As `trained` does, one model at a time, and from any start: start, examples and rate are data, so that a second
    training compiles nothing. It is for many trainings of one config, and for models with convolutions, whose gradient
    inside `jax.lax.scan` takes some 50 times as long on CPU. Several threads may train at the same time.
    """

    def __init__(self, config: Config):
        definition = definition_of(config)
        optimizer = optax.inject_hyperparams(optax.adam)(0.0)

        @jax.jit
        def step(params: Tree, stats: Tree, state: Any, batch: Any, rate: Array) -> tuple[Tree, Tree, Any]:
            _, stats, gradients = _gradients(definition, params, stats, cross_entropy, batch)
            state.hyperparams["learning_rate"] = rate
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), stats, state

        @jax.jit
        def right(params: Tree, stats: Tree, inputs: Any, answers: Array) -> Array:
            return (merge(definition, params, stats)(inputs, train=False).argmax(-1) == answers).mean()

        self.definition = definition
        self._config, self._initial = config, jax.jit(optimizer.init)
        self._step, self._right = step, right

    def fresh(self, seed: int) -> tuple[Tree, Tree]:
        """Parameters and statistics of a model initialised with a seed, as the function `fresh` does."""
        return split(self._config.build(rngs=nnx.Rngs(seed)))[1:]

    def trained(
        self,
        start: tuple[Tree, Tree],
        examples: Examples,
        *,
        seed: int,
        steps: int,
        rate: float,
        batch: int = 32,
        num_examples: int | None = None,
    ) -> tuple[Tree, Tree]:
        """Parameters and statistics after training from those of `start`, on batches drawn as `trained` draws them."""
        params, stats = start
        state = self._initial(params)
        rates = np.asarray(_schedule(rate, steps)(np.arange(steps)), np.float32)
        draw = _at_random(len(examples.answers), num_examples)
        for chosen, now in zip(draw(np.random.default_rng(seed), (steps, batch)), rates, strict=True):
            drawn = jax.tree.map(lambda array, at=chosen: array[at], (examples.inputs, examples.answers))
            params, stats, state = self._step(params, stats, state, drawn, now)
        return params, stats

    def accuracy(self, model: tuple[Tree, Tree], held_out: Examples) -> float:
        """Share of right answers, in evaluation mode."""
        return float(self._right(*model, held_out.inputs, held_out.answers))


def _schedule(rate: float, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)


def _gradients(
    definition: nnx.GraphDef, params: Tree, stats: Tree, loss_of: Callable[[Any, Any], Array], batch: Any
) -> tuple[Array, Tree, Tree]:
    """Loss on a batch, the statistics after it, and the gradients."""

    def loss_and_stats(params: Tree) -> tuple[Array, Tree]:
        model = merge(definition, params, stats)
        return loss_of(model, batch), stats_of(model)

    (loss, stats_after), gradients = jax.value_and_grad(loss_and_stats, has_aux=True)(params)
    return loss, stats_after, gradients


def cross_entropy(model: Any, batch: tuple[Any, Array]) -> Array:
    """Mean loss in nats of a classifier on `(inputs, answers)`."""
    inputs, answers = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs, train=True), answers).mean()


def _at_random(total: int, num_examples: int | None) -> Draw:
    """Batches from the first examples of an order of all that the generator makes."""
    return lambda rng, shape: rng.choice(rng.permutation(total)[:num_examples], shape)
