"""Pruning: which heads and feed-forward neurons a trained Transformer can do without, and the model without them.

    scores = importance(model.params, loss, examples)
    config, params = keep_neurons(model.config, model.params, strongest(scores.neurons, 1024))
    smaller = dataclasses.replace(model, config=config, params=params)

Layers are stacked, so each gives up equally many. What is left computes what the whole model would with the others
silenced. For fewer tokens see `VisionTransformerConfig.merged_tokens`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitjax.models.config import ModelConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree

Tower = Literal["encoder", "decoder"]
Config = TypeVar("Config", bound=ModelConfig)

OUTPUTS = {"attention": "out", "cross_attention": "out", "feed_forward": "down"}
"""The last projection of each sublayer: row by row it takes what heads or neurons give."""

# where heads are counted in the arrays of an attention, behind the axis of layers
HEAD_AXIS = {
    **{f"{name}/kernel": 2 for name in ("query", "key", "value")},
    **{f"{name}/bias": 1 for name in ("query", "key", "value")},
    "out/kernel": 1,
    "score_kernel": 1,
}
NEURON_AXIS = {"up/kernel": 2, "up/bias": 1, "gate/kernel": 2, "gate/bias": 1, "down/kernel": 1}
TABLE_AXIS = {"embedding": 2, "prefix": 2}  # relative biases of each layer


class Importance(NamedTuple):
    """`heads` [L, H] of each attention of the blocks by its name, `neurons` [L, F] of the feed-forward network."""

    heads: dict[str, Float[Array, "L H"]]
    neurons: Float[Array, "L F"]


def importance(
    params: Tree,
    loss: Callable[[Tree, Any], Float[Array, ""]],
    examples: Any,
    *,
    tower: Tower | None = None,
    batch_size: int = 8,
) -> Importance:
    """How much the loss of an example would move if what a head or a neuron gives were dimmed.

    It is the mean over examples of |d loss / d gate|, for a gate of 1 on each (Michel et al. 2019, Are Sixteen Heads
    Really Better than One?, eq. 2). Dimming an output is dimming the rows of the kernel that take it, so the gradient
    by the gate is the sum of these rows times their gradient, and no gate is needed.

    Args:
      loss: of all parameters and one example.
      examples: arrays with a leading axis of examples.
      tower: of an encoder-decoder, whose blocks are meant.
      batch_size: examples at a time; each takes the memory of the last projections once more.
    """
    blocks = _blocks(params, tower)
    kernels = {name: blocks[name][last]["kernel"] for name, last in OUTPUTS.items() if name in blocks}

    def loss_of(kernels: Tree, example: Any) -> Array:
        changed = {
            name: {**blocks[name], OUTPUTS[name]: {**blocks[name][OUTPUTS[name]], "kernel": kernel}}
            for name, kernel in kernels.items()
        }
        return loss(_with_blocks(params, tower, {**blocks, **changed}), example)

    def by_gate(kernel: Float[Array, "L n ..."], gradient: Float[Array, "L n ..."]) -> Float[Array, "L n"]:
        return jnp.abs((kernel * gradient).reshape(*kernel.shape[:2], -1).sum(axis=-1))

    def of_one(example: Any) -> Tree:
        return jax.tree.map(by_gate, kernels, jax.grad(loss_of)(kernels, example))

    found = jax.tree.map(lambda each: each.mean(axis=0), jax.lax.map(of_one, examples, batch_size=batch_size))
    return Importance(neurons=found.pop("feed_forward"), heads=found)


def strongest(importance: Float[Array, "L n"], count: int) -> Int[np.ndarray, "L K"]:
    """The `count` most important of each layer, in order."""
    return np.sort(np.argsort(-np.asarray(importance), axis=1, kind="stable")[:, :count], axis=1)


def keep_heads(
    config: Config,
    params: Tree,
    heads: Int[np.ndarray, "L K"] | Mapping[str, Int[np.ndarray, "L K"]],
    *,
    tower: Tower | None = None,
) -> tuple[Config, Tree]:
    """The model with these K heads of each layer alone, as config and parameters.

    Args:
      heads: of `attention`; for a decoder by the name of each attention, `attention` and `cross_attention`.

    Raises:
      ValueError: there are no such heads, or something else of the model has as many heads as its blocks.
    """
    blocks, t = _blocks(params, tower), _transformer(config, tower)
    chosen = dict(heads) if isinstance(heads, Mapping) else {"attention": heads}
    found = [name for name in OUTPUTS if name in blocks and name != "feed_forward"]
    if sorted(chosen) != sorted(found):
        raise ValueError(f"heads are given for {', '.join(chosen)}: the blocks have {', '.join(found)}")
    if len({np.shape(each) for each in chosen.values()}) != 1:
        raise ValueError("each attention of a block must keep equally many heads")
    _require_alone(params, tower, "heads", "relative_bias", "pool")
    changed = {name: _taken(blocks[name], each, HEAD_AXIS, t.num_heads) for name, each in chosen.items()}
    if "relative_bias" in blocks:
        changed["relative_bias"] = _taken(
            blocks["relative_bias"], chosen["attention"], TABLE_AXIS, t.num_heads
        )
    count = np.shape(chosen["attention"])[1]
    smaller = replace(t, num_heads=count, attention_width=count * t.head_width)
    return _with_transformer(config, tower, smaller), _with_blocks(params, tower, {**blocks, **changed})


def keep_neurons(
    config: Config, params: Tree, neurons: Int[np.ndarray, "L K"], *, tower: Tower | None = None
) -> tuple[Config, Tree]:
    """The model with these K feed-forward neurons of each layer alone, as config and parameters.

    Raises:
      ValueError: there are no such neurons, or something else of the model is as wide as they.
    """
    blocks, t = _blocks(params, tower), _transformer(config, tower)
    _require_alone(params, tower, "neurons", "pool")
    fewer = _taken(blocks["feed_forward"], neurons, NEURON_AXIS, t.feed_forward_width)
    smaller = replace(t, feed_forward_width=np.shape(neurons)[1])
    return _with_transformer(config, tower, smaller), _with_blocks(
        params, tower, {**blocks, "feed_forward": fewer}
    )


def _taken(part: Tree, chosen: Int[np.ndarray, "L K"], axes: Mapping[str, int], count: int) -> Tree:
    """Of each array that counts heads or neurons, those chosen in each layer."""
    chosen = np.asarray(chosen)
    if chosen.ndim != 2 or not chosen.size or chosen.min() < 0 or chosen.max() >= count:
        raise ValueError(
            f"to be kept are {chosen.tolist()}: expected some of 0 to {count - 1} for each layer"
        )
    if any(len(set(row)) < len(row) for row in chosen.tolist()):
        raise ValueError(f"to be kept are {chosen.tolist()}: one of them is there twice")

    def take(path: tuple[Any, ...], leaf: Array) -> Array:
        axis = axes.get("/".join(key.key for key in path))
        if axis is None:
            return leaf
        if len(chosen) != len(leaf):
            raise ValueError(f"to be kept are those of {len(chosen)} layers: the model has {len(leaf)}")
        return jax.vmap(lambda array, rows: jnp.take(array, rows, axis=axis - 1))(leaf, jnp.asarray(chosen))

    return jax.tree_util.tree_map_with_path(take, part)


def _require_alone(params: Tree, tower: Tower | None, what: str, *others: str) -> None:
    part = params[tower] if tower else params
    for other in others:
        if other in part:
            raise ValueError(
                f"{other} has as many {what} as all layers: they cannot be taken from the layers alone"
            )


def _blocks(params: Tree, tower: Tower | None) -> Tree:
    part = params.get(tower, {}) if tower else params
    if "blocks" not in part:
        where = f"the {tower} of this model" if tower else "this model"
        raise ValueError(f"{where} has no Transformer blocks: tower is one of encoder and decoder, or None")
    return part["blocks"]


def _with_blocks(params: Tree, tower: Tower | None, blocks: Tree) -> Tree:
    return {**params, tower: {**params[tower], "blocks": blocks}} if tower else {**params, "blocks": blocks}


def _transformer(config: Any, tower: Tower | None) -> TransformerConfig:
    return (getattr(config, tower) if tower else config).transformer


def _with_transformer(config: Any, tower: Tower | None, transformer: TransformerConfig) -> Any:
    if tower is None:
        return replace(config, transformer=transformer)
    return replace(config, **{tower: replace(getattr(config, tower), transformer=transformer)})
