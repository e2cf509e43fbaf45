"""L equal blocks as one: parameters stacked on a leading axis, run by `lax.scan`."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vitjax.nn.blocks import BlockOutput, TransformerConfig

Block = TypeVar("Block", bound=nnx.Module)

_REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def stack_blocks(build: Callable[[nnx.Rngs], Block], depth: int, *, rngs: nnx.Rngs) -> Block:
    """`depth` independently initialised blocks, as one block whose every parameter has a leading axis L."""
    return jax.vmap(lambda key: build(nnx.Rngs(key)))(jax.random.split(rngs.params(), depth))


def layers(blocks: Block, depth: int) -> list[Block]:
    """The single blocks of a stack, for a loop in Python where each layer has a state of its own (a cache)."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(depth)]


def rematerialized(
    layer: Callable[..., Any], config: TransformerConfig, *, in_loop: bool
) -> Callable[..., Any]:
    """A function that computes one layer, recomputed in the backward pass as `config.remat` says.

    Args:
      in_loop: it is the body of a `lax.scan`, where XLA cannot undo that.
    """
    if config.remat == "none":
        return layer
    return jax.checkpoint(layer, policy=_REMAT_POLICIES[config.remat], prevent_cse=not in_loop)


def run_blocks(
    blocks: nnx.Module,
    x: Float[Array, "B N D"],
    *args: Any,
    config: TransformerConfig,
    train: bool,
    key: Array | None,
    return_weights: bool,
    nudges: Float[Array, "L B H N S"] | None = None,
    **kwargs: Any,
) -> BlockOutput:
    """Send `x` through all blocks; `args` and `kwargs` go to each. Weights come out as [L, B, H, N, S] or None.

    `nudges` go to the attention of encoder blocks, one a layer (`MultiHeadAttention.attend`). Running statistics
    (BatchNorm) of `blocks` are updated in train mode. `config.remat` says what the backward pass recomputes,
    `config.unroll` whether the loop is written out.
    """
    depth = config.depth
    keys = None if key is None else jax.random.split(key, depth)
    drop_rates = jnp.linspace(0.0, config.stochastic_depth, depth)

    def body(x: Array, layer: tuple) -> tuple[Array, tuple]:
        block, layer_key, drop_rate, nudge = layer
        options = kwargs if nudge is None else {**kwargs, "nudge": nudge}
        out = block(
            x,
            *args,
            train=train,
            key=layer_key,
            drop_rate=drop_rate,
            return_weights=return_weights,
            **options,
        )
        return out.x, (nnx.state(block, nnx.BatchStat), out.weights)

    x, (stats, weights) = jax.lax.scan(
        rematerialized(body, config, in_loop=not config.unroll),
        x,
        (blocks, keys, drop_rates, nudges),
        unroll=depth if config.unroll else 1,
    )
    if train:
        nnx.update(blocks, stats)
    return BlockOutput(x, weights)
