"""The state of a run as one pytree, and how it comes to be on a mesh."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from vitjax.nn import functional
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import state_shardings
from vitjax.training.config import Config
from vitjax.training.optimizer import Schedule, make_optimizer


@struct.dataclass
class TrainState:
    """All that a step changes and a checkpoint keeps.

    Attributes:
      step: updates done.
      params: what is trained; `frozen`: what is not (same nesting, no path in both).
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

    @property
    def evaluated(self) -> Tree:
        """The parameters to evaluate and decode with: the average if one is kept."""
        return join(self.ema or self.params, self.frozen)


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
    trainable, _ = partition(params, config.train.freeze)
    optimizer, schedule = make_optimizer(config.optimizer, trainable, config.train.steps)
    shapes = jax.eval_shape(lambda: _fresh(config, optimizer))
    placed = state_shardings(shapes, params, mesh)
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, placed
    )
    return Setup(config, definition, optimizer, schedule, shapes)


def init_state(setup: Setup) -> TrainState:
    """A fresh state; each device makes only its own part."""
    make = jax.jit(lambda: _fresh(setup.config, setup.optimizer), out_shardings=setup.shardings)
    return make()


def _fresh(config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    key = jax.random.key(config.train.seed)
    params, stats = functional.initialize(
        lambda rngs: config.model.build(rngs=rngs), jax.random.fold_in(key, 0)
    )
    trainable, frozen = partition(params, config.train.freeze)
    return TrainState(
        step=jnp.int32(0),
        params=trainable,
        frozen=frozen,
        stats=stats,
        opt_state=optimizer.init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if config.train.ema_decay else {},
        key=jax.random.fold_in(key, 1),
    )


def partition(params: Tree, patterns: tuple[str, ...]) -> tuple[Tree, Tree]:
    """`(trainable, frozen)`: parameters whose whole path matches one of the patterns are frozen.

    Raises ValueError for a pattern that matches nothing, and if nothing is left to train.
    """
    paths = list(named_leaves(params))
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise ValueError(f"train.freeze: no parameter matches {pattern!r}; paths look like {paths[0]!r}")
    frozen_paths = {path for path in paths if any(re.fullmatch(pattern, path) for pattern in patterns)}
    if len(frozen_paths) == len(paths):
        raise ValueError("train.freeze leaves nothing to train")

    def select(tree: Tree, prefix: str, frozen: bool) -> Tree:
        kept: dict[str, Any] = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                if inner := select(value, f"{prefix}{name}/", frozen):
                    kept[name] = inner
            elif (f"{prefix}{name}" in frozen_paths) == frozen:
                kept[name] = value
        return kept

    return select(params, "", False), select(params, "", True)


def join(one: Tree, other: Tree) -> Tree:
    """The inverse of `partition`."""
    joined = dict(one)
    for name, value in other.items():
        joined[name] = join(joined[name], value) if name in joined else value
    return joined
