"""One update: loss, gradients, optimizer, average. A pure function of state and batch, under one `jax.jit`."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from vitjax.nn.functional import Tree, merge, stats_of
from vitjax.parallel.sharding import batch_sharding, replicated
from vitjax.training.losses import LossSum
from vitjax.training.optimizer import ema_update
from vitjax.training.state import Setup, TrainState, merged
from vitjax.training.tasks import loss_function

Batch = dict[str, Array]
Metrics = dict[str, Array]


def make_train_step(setup: Setup, mesh: Mesh) -> jax.stages.Wrapped:
    """The compiled update `(state, batch) -> (state, metrics)`.

    The state is donated: its memory becomes that of the new one.

    Batches are split over `data` and `fsdp`; XLA inserts the collectives that the state's shardings call for.
    """
    shardings = setup.shardings
    return jax.jit(
        lambda state, batch: train_step(setup, state, batch),
        in_shardings=(shardings, batch_sharding(mesh, setup.config.train.batch_size)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def train_step(setup: Setup, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update of `state` from a global batch (uint8 images), and its metrics as float32 scalars.

    Losses are sums until the last line, so that accumulated parts and devices give what one big batch gives.
    """
    config = setup.config.train
    key = jax.random.fold_in(state.key, state.step)
    if config.accumulate == 1:
        gradients, loss, stats = _gradients(setup, state, state.stats, batch, key)
    else:
        gradients, loss, stats = _accumulated(setup, state, batch, key)
    count = jnp.maximum(loss.count, 1)
    gradients = jax.tree.map(lambda g: g / count, gradients)
    updates, opt_state = setup.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    ema = ema_update(state.ema, params, config.ema_decay, step) if config.ema_decay else state.ema
    metrics = {
        "loss": loss.mean,
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": setup.schedule(state.step),
        "bad_labels": loss.bad_labels,
    }
    return replace(state, step=step, params=params, stats=stats, opt_state=opt_state, ema=ema), metrics


def _gradients(
    setup: Setup, state: TrainState, stats: Tree, batch: Batch, key: Array
) -> tuple[Tree, LossSum, Tree]:
    def total(params: Tree) -> tuple[Array, tuple[LossSum, Tree]]:
        model = merge(setup.definition, merged(setup.config, params, state.frozen), stats)
        loss = loss_function(setup.config, model, batch, train=True, key=key)
        return loss.total, (loss, stats_of(model))

    gradients, (loss, stats) = jax.grad(total, has_aux=True)(state.params)
    return gradients, loss, stats


def _accumulated(setup: Setup, state: TrainState, batch: Batch, key: Array) -> tuple[Tree, LossSum, Tree]:
    """`_gradients` of `accumulate` parts of the batch, one after the other."""
    parts = setup.config.train.accumulate

    def cut(x: Array) -> Array:  # part i takes every parts-th example: no data moves between devices
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    def body(carry: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
        gradients, loss, stats = carry
        new_gradients, new_loss, stats = _gradients(setup, state, stats, *part)
        add = lambda a, b: jax.tree.map(jnp.add, a, b)  # noqa: E731
        return (add(gradients, new_gradients), add(loss, new_loss), stats), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    nothing = LossSum(jnp.float32(0), jnp.float32(0), jnp.int32(0))
    start = (zeros, nothing, state.stats)
    carry, _ = jax.lax.scan(body, start, (jax.tree.map(cut, batch), jax.random.split(key, parts)))
    return carry
