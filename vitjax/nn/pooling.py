"""From a sequence of tokens to one vector."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vitjax.nn.attention import MultiHeadAttention, padding_mask
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.feedforward import FeedForward
from vitjax.nn.norms import make_norm

Pooling = Literal["cls", "mean", "cls_mean", "attention", "none"]


def mean_of(x: Float[Array, "B N D"], mask: Bool[Array, "B N"] | None = None) -> Float[Array, "B D"]:
    """The mean of the tokens that are True in `mask`."""
    if mask is None:
        return jnp.mean(x, axis=1)
    return jnp.sum(x, axis=1, where=mask[..., None]) / jnp.sum(mask, axis=1, keepdims=True)


class Pooled(NamedTuple):
    """`vector` [B, D], None where nothing is pooled; `weights` [B, H, 1, N] of attention pooling, if asked for."""

    vector: Array | None
    weights: Array | None = None


class AttentionPooling(nnx.Module):
    """One trained query attends to all tokens, then a feed-forward network (MAP head; Zhai et al. 2022, SigLIP)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.probe = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (1, 1, width)))
        self.attention = MultiHeadAttention(width, config.num_heads, dtype=config.dtype, rngs=rngs)
        self.norm = make_norm("layer", width, epsilon=config.norm_epsilon, dtype=config.dtype, rngs=rngs)
        self.feed_forward = FeedForward(
            width, config.feed_forward_width, activation=config.activation, dtype=config.dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "B N D"],
        *,
        mask: Bool[Array, "B N"] | None = None,
        train: bool,
        nudge: Float[Array, "B H 1 N"] | None = None,
        return_weights: bool = False,
    ) -> Pooled:
        probe = jnp.broadcast_to(self.probe[...], (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
        pooled, weights = self.attention(
            probe,
            x,
            mask=None if mask is None else padding_mask(mask),
            train=train,
            nudge=nudge,
            return_weights=return_weights,
        )
        pooled = pooled + self.feed_forward(self.norm(pooled, train=train), train=train)
        return Pooled(pooled[:, 0], weights)
