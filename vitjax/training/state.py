"""The state of a run as one pytree, and how it comes to be on a mesh."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from vitjax.nn import functional
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import matching, named_leaves, nested
from vitjax.parallel.sharding import state_shardings
from vitjax.training.config import Config
from vitjax.training.lora import LORA, LoraConfig, adapted, add_factors, new_factors
from vitjax.training.optimizer import Schedule, make_optimizer


@struct.dataclass
class TrainState:
    """All that a step changes and a checkpoint keeps.

    Attributes:
      step: updates done.
      params: what is trained, LoRA's factors under `lora`; `frozen`: what is not (same nesting, no path in both).
      stats: running statistics of BatchNorm, {} if there are none.
      ema: average of `params`, {} if none is kept.
      key: the run's random key; step s uses `fold_in(key, s)`.
    """

    step: Any  # i32 []
    params: Tree
    frozen: Tree
    stats: Tree
    opt_state: Any
    ema: Tree
    key: Any


@dataclass(frozen=True)
class Setup:
    """What a run needs beside its state: all of it static, made from the config alone, nothing allocated."""

    config: Config
    definition: nnx.GraphDef
    optimizer: optax.GradientTransformation
    schedule: Schedule
    shapes: TrainState
    """The state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct`)."""

    @property
    def shardings(self) -> TrainState:
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes)


def make_setup(config: Config, mesh: Mesh) -> Setup:
    """Plan a run: trace the model, choose the optimizer, place every array by the rules of `parallel.sharding`."""
    definition, params, _ = functional.abstract(lambda rngs: config.model.build(rngs=rngs))
    trainable = jax.eval_shape(lambda: _parts(config, {}, {})).trainable
    optimizer, schedule = make_optimizer(config.optimizer, trainable, config.train.steps)
    shapes = jax.eval_shape(lambda: _fresh(config, optimizer, {}, {}))
    return Setup(config, definition, optimizer, schedule, _placed(shapes, join(params, trainable), mesh))


def init_state(setup: Setup, params: Tree | None = None, stats: Tree | None = None) -> TrainState:
    """A fresh state; each device makes only its own part.

    Args:
      params, stats: what does not start at random: some or all of the model's arrays, on the mesh. They are donated.
    """
    make = jax.jit(
        lambda params, stats: _fresh(setup.config, setup.optimizer, params, stats),
        out_shardings=setup.shardings,
        donate_argnums=(0, 1),
    )
    return make(params or {}, stats or {})


def parameter_shapes(config: Config, mesh: Mesh | None) -> tuple[Tree, Tree, Tree]:
    """`(trained, frozen, stats)` of a state, as shapes with their places on the mesh, or without for None."""
    parts = jax.eval_shape(lambda: _parts(config, {}, {}))
    return tuple(parts if mesh is None else _placed(parts, join(parts.trainable, parts.frozen), mesh))


def merged(config: Config, trained: Tree, frozen: Tree) -> Tree:
    """The parameters that the model is built with: frozen ones put back, LoRA's factors merged into their kernels.

    Args:
      trained: `params` or `ema` of a `TrainState`.
    """
    if LORA not in trained:
        return join(trained, frozen)
    return _merge(config.lora, trained, frozen)


def evaluated(config: Config, state: TrainState) -> Tree:
    """The parameters to evaluate and decode with: the average, if one is kept."""
    return merged(config, state.ema or state.params, state.frozen)


@partial(jax.jit, static_argnums=0)
def _merge(config: LoraConfig, trained: Tree, frozen: Tree) -> Tree:
    whole = {name: value for name, value in trained.items() if name != LORA}
    return add_factors(config, join(whole, frozen), trained[LORA])


def _placed(shapes: Any, params: Tree, mesh: Mesh) -> Any:
    """Shapes with their places; `params` has what the rules are about, under the paths that they know."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        state_shardings(shapes, params, mesh),
    )


class _Parts(NamedTuple):
    trainable: Tree
    frozen: Tree
    stats: Tree


def _parts(config: Config, given: Tree, given_stats: Tree) -> _Parts:
    """What is trained, what is not, and running statistics: as given, where they are, otherwise at random."""
    key = jax.random.key(config.train.seed)
    params, stats = functional.initialize(
        lambda rngs: config.model.build(rngs=rngs), jax.random.fold_in(key, 0)
    )
    params, stats = join(params, given), join(stats, given_stats)
    if not config.lora.rank:
        return _Parts(*partition(params, config.train.freeze), stats)
    factors = new_factors(config.lora, params, jax.random.fold_in(key, 2))
    whole = trained_whole(config, params)
    trainable, frozen = _divided(params, set(named_leaves(params)) - whole)
    return _Parts({**trainable, LORA: factors}, frozen, stats)


def _fresh(
    config: Config, optimizer: optax.GradientTransformation, given: Tree, given_stats: Tree
) -> TrainState:
    trainable, frozen, stats = _parts(config, given, given_stats)
    return TrainState(
        step=jnp.int32(0),
        params=trainable,
        frozen=frozen,
        stats=stats,
        opt_state=optimizer.init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if config.train.ema_decay else {},
        key=jax.random.fold_in(jax.random.key(config.train.seed), 1),
    )


def partition(params: Tree, patterns: tuple[str, ...]) -> tuple[Tree, Tree]:
    """`(trainable, frozen)`: parameters whose whole path matches one of the patterns are frozen.

    Raises ValueError for a pattern that matches nothing, and if nothing is left to train.
    """
    paths = list(named_leaves(params))
    for pattern in patterns:
        if not matching(paths, [pattern]):
            raise ValueError(f"train.freeze: no parameter matches {pattern!r}; paths look like {paths[0]!r}")
    frozen = matching(paths, patterns)
    if len(frozen) == len(paths):
        raise ValueError("train.freeze leaves nothing to train")
    return _divided(params, frozen)


def trained_whole(config: Config, params: Tree) -> set[str]:
    """Under LoRA, the parameters that are trained beside the factors."""
    names = named_leaves(params)
    for pattern in config.lora.whole:
        if not matching(names, [pattern]):
            raise ValueError(
                f"lora.whole: no parameter matches {pattern!r}; paths look like {next(iter(names))!r}"
            )
    whole = matching(names, (*config.init.new, *config.lora.whole))
    if both := whole & set(adapted(config.lora, params)):
        raise ValueError(
            f"lora.patterns: {min(both)} is trained whole already, by init.new or lora.whole; leave it out of one"
        )
    return whole


def join(one: Tree, other: Tree) -> Tree:
    """The inverse of `partition`; where both have a leaf, `other`'s."""
    return nested({**named_leaves(one), **named_leaves(other)})


def _divided(params: Tree, frozen: set[str]) -> tuple[Tree, Tree]:
    leaves = named_leaves(params).items()
    return (
        nested({name: leaf for name, leaf in leaves if name not in frozen}),
        nested({name: leaf for name, leaf in leaves if name in frozen}),
    )
