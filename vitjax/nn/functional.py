"""Modules as pure data: take a module apart into (definition, params, stats) and put it together again.

NNX modules are used as typed parameter containers only. Everything that is trained, saved, sharded or donated is a
plain nested dict of arrays; a module lives inside one `jax.jit` and nowhere else. Per step that is several times
cheaper in Python than carrying modules (benchmarks/NOTES.md).
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Tree = dict[str, Any]


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Return `(definition, params, stats)`.

    `definition` is hashable, so a static argument of `jax.jit`. `params` are the trainable arrays, `stats` the running
    statistics of BatchNorm ({} if there are none), both nested dicts with string keys.
    """
    definition, params, *rest = nnx.split(module, nnx.Param, ...)
    (stats,) = rest
    return definition, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def merge(definition: nnx.GraphDef, params: Tree, stats: Tree | None = None) -> Any:
    """Rebuild the module that `split` took apart. Call it inside `jax.jit`; it computes nothing."""
    return nnx.merge(definition, params, stats or {})


def stats_of(module: nnx.Module) -> Tree:
    """The running statistics now held by a module, after a call with `train=True` has updated them."""
    return split(module)[2]


def abstract(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, Tree, Tree]:
    """`split(build(rngs))` with `jax.ShapeDtypeStruct` leaves: nothing is computed, and no device touched."""
    return split(jax.eval_shape(lambda: build(nnx.Rngs(jax.random.key(0)))))


def initialize(build: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> tuple[Tree, Tree]:
    """Fresh `(params, stats)` from a key. Under `jax.jit` with `out_shardings` each device makes only its part."""
    return split(build(nnx.Rngs(key)))[1:]
