"""Encoder and decoder blocks of every Transformer in vitjax, told apart by configuration only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vitjax.nn.attention import MultiHeadAttention, QKVBias, Score, padding_mask
from vitjax.nn.beam_parallel import attend_across_devices
from vitjax.nn.cache import Kept, LayerCache, recall
from vitjax.nn.feedforward import Activation, FeedForward
from vitjax.nn.norms import NormKind, make_norm
from vitjax.nn.positions import Rotation
from vitjax.nn.regularization import dropout, split_key, stochastic_depth


@dataclass(frozen=True)
class TransformerConfig:
    """What a stack of encoder or decoder blocks is made of.

    The defaults are ViT's (Dosovitskiy et al. 2021): pre-norm, LayerNorm, exact GELU. The original Transformer (Vaswani
    et al. 2017) is `norm_position="post", activation="relu"`.

    Attributes:
      width, depth, num_heads, feed_forward_width: D, L, H, F.
      norm_position: `pre` normalises what enters a sublayer, `post` the sum that leaves it.
      attention_score, share_query_key, query_key_norm, query_key_scale, qkv_bias: see `MultiHeadAttention`.
      attention_width: features of all heads together, H * C; None means D.
      layer_scale: start of a trained factor on each residual branch (Touvron et al. 2021, CaiT), or None.
      stochastic_depth: rate of the last block; earlier ones grow linearly to it.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products.
      unroll: write the layers out instead of scanning them: faster forward on some devices, slower to compile.
      dtype: of the arithmetic; parameters, norms and softmax stay float32.
    """

    width: int
    depth: int
    num_heads: int
    feed_forward_width: int
    norm: NormKind = "layer"
    norm_position: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-6
    activation: Activation = "gelu"
    attention_score: Score = "dot"
    share_query_key: bool = False
    query_key_norm: bool = False
    query_key_scale: float | None = None
    use_bias: bool = True
    qkv_bias: QKVBias = "all"
    attention_width: int | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: Literal["none", "full", "dots"] = "none"
    unroll: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.attention_width is not None and self.attention_width % self.num_heads:
            raise ValueError(
                f"attention_width {self.attention_width} is not a multiple of num_heads {self.num_heads}"
            )

    @property
    def head_width(self) -> int:
        return (self.attention_width or self.width) // self.num_heads


class LayerScale(nnx.Module):
    """A trained factor for each feature of a residual branch."""

    def __init__(self, width: int, initial: float):
        self.scale = nnx.Param(jnp.full((width,), initial))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return x * self.scale[...].astype(x.dtype)


class Sublayer(nnx.Module):
    """The norm, layer scale and residual connection around one sublayer."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.norm = make_norm(
            config.norm, config.width, epsilon=config.norm_epsilon, dtype=config.dtype, rngs=rngs
        )
        if config.layer_scale is not None:
            self.layer_scale = LayerScale(config.width, config.layer_scale)
        self.config = config

    def enter(self, x: Array, *, train: bool) -> Array:
        return self.norm(x, train=train) if self.config.norm_position == "pre" else x

    def leave(
        self, x: Array, branch: Array, *, train: bool, key: Array | None = None, drop_rate: Any = 0.0
    ) -> Array:
        if self.config.layer_scale is not None:
            branch = self.layer_scale(branch)
        if self.config.stochastic_depth > 0:
            branch = stochastic_depth(branch, drop_rate, train=train, key=key)
        x = x + branch
        return x if self.config.norm_position == "pre" else self.norm(x, train=train)


def _attention(config: TransformerConfig, *, rngs: nnx.Rngs, context_width: int | None = None):
    return MultiHeadAttention(
        config.width,
        config.num_heads,
        head_width=None if config.attention_width is None else config.head_width,
        context_width=context_width,
        score=config.attention_score,
        share_query_key=config.share_query_key and context_width is None,
        query_key_norm=config.query_key_norm,
        query_key_scale=config.query_key_scale,
        use_bias=config.use_bias,
        qkv_bias=config.qkv_bias,
        dropout_rate=config.attention_dropout,
        dtype=config.dtype,
        rngs=rngs,
    )


def _feed_forward(config: TransformerConfig, *, rngs: nnx.Rngs) -> FeedForward:
    return FeedForward(
        config.width,
        config.feed_forward_width,
        activation=config.activation,
        use_bias=config.use_bias,
        dropout_rate=config.dropout,
        dtype=config.dtype,
        rngs=rngs,
    )


class BlockOutput(NamedTuple):
    """`x` [B, N, D]; `weights` [B, H, N, S] of the attention asked for, else None."""

    x: Array
    weights: Array | None


class Attended(NamedTuple):
    """`x` [B, N, D] after the attention; its `keys` [B, N, H, C]; `weights` [B, H, N, N] if asked for, else None."""

    x: Array
    keys: Array
    weights: Array | None


class EncoderBlock(nnx.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.attention = _attention(config, rngs=rngs)
        self.attention_sublayer = Sublayer(config, rngs=rngs)
        self.feed_forward = _feed_forward(config, rngs=rngs)
        self.feed_forward_sublayer = Sublayer(config, rngs=rngs)
        self.config = config

    def attend(
        self,
        x: Float[Array, "B N D"],
        *,
        mask: Bool[Array, "#B #H #N N"] | None = None,
        bias: Float[Array, "#B #H #N N"] | None = None,
        rotation: Rotation | None = None,
        train: bool,
        key: Array | None = None,
        drop_rate: Any = 0.0,
        nudge: Float[Array, "B H N N"] | None = None,
        return_weights: bool = False,
    ) -> Attended:
        """The first half of the block."""
        keys = split_key(key, 5)
        entered = self.attention_sublayer.enter(x, train=train)
        query = self.attention.project_query(entered, rotation)
        key_vectors, values = self.attention.project_key_value(entered, rotation)
        branch, weights = self.attention.attend(
            query,
            key_vectors,
            values,
            mask=mask,
            bias=bias,
            train=train,
            dropout_key=keys[0],
            nudge=nudge,
            return_weights=return_weights,
        )
        branch = dropout(branch, self.config.dropout, train=train, key=keys[1])
        x = self.attention_sublayer.leave(x, branch, train=train, key=keys[2], drop_rate=drop_rate)
        return Attended(x, key_vectors, weights)

    def transform(
        self, x: Float[Array, "B N D"], *, train: bool, key: Array | None = None, drop_rate: Any = 0.0
    ) -> Float[Array, "B N D"]:
        """The second half: each token on its own."""
        keys = split_key(key, 5)
        branch = self.feed_forward(self.feed_forward_sublayer.enter(x, train=train), train=train, key=keys[3])
        return self.feed_forward_sublayer.leave(x, branch, train=train, key=keys[4], drop_rate=drop_rate)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        *,
        train: bool,
        key: Array | None = None,
        drop_rate: Any = 0.0,
        **attention: Any,
    ) -> BlockOutput:
        """Both halves; `attention` are the other arguments of `attend`."""
        out = self.attend(x, train=train, key=key, drop_rate=drop_rate, **attention)
        return BlockOutput(self.transform(out.x, train=train, key=key, drop_rate=drop_rate), out.weights)


class DecoderBlock(nnx.Module):
    """Masked self-attention, cross-attention to the context, feed-forward.

    Queries, keys and values of the self-attention all come from the decoder's own tokens; the cross-attention takes its
    queries from the decoder, keys and values from the context.
    """

    def __init__(self, config: TransformerConfig, *, context_width: int, rngs: nnx.Rngs):
        self.attention = _attention(config, rngs=rngs)
        self.attention_sublayer = Sublayer(config, rngs=rngs)
        self.cross_attention = _attention(config, context_width=context_width, rngs=rngs)
        self.cross_attention_sublayer = Sublayer(config, rngs=rngs)
        self.feed_forward = _feed_forward(config, rngs=rngs)
        self.feed_forward_sublayer = Sublayer(config, rngs=rngs)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S E"],
        *,
        mask: Bool[Array, "#B #H #T T"] | None = None,
        context_mask: Bool[Array, "#B #H #T S"] | None = None,
        bias: Float[Array, "#B #H #T T"] | None = None,
        rotation: Rotation | None = None,
        train: bool,
        key: Array | None = None,
        drop_rate: Any = 0.0,
        return_weights: bool = False,
    ) -> BlockOutput:
        """All positions at once; `mask` must be causal for generation. The weights are the cross-attention's."""
        keys = split_key(key, 8)
        rate = self.config.dropout
        branch, _ = self.attention(
            self.attention_sublayer.enter(x, train=train),
            mask=mask,
            bias=bias,
            rotation=rotation,
            train=train,
            key=keys[0],
        )
        branch = dropout(branch, rate, train=train, key=keys[1])
        x = self.attention_sublayer.leave(x, branch, train=train, key=keys[2], drop_rate=drop_rate)
        branch, weights = self.cross_attention(
            self.cross_attention_sublayer.enter(x, train=train),
            context,
            mask=context_mask,
            train=train,
            key=keys[3],
            return_weights=return_weights,
        )
        branch = dropout(branch, rate, train=train, key=keys[4])
        x = self.cross_attention_sublayer.leave(x, branch, train=train, key=keys[5], drop_rate=drop_rate)
        branch = self.feed_forward(self.feed_forward_sublayer.enter(x, train=train), train=train, key=keys[6])
        x = self.feed_forward_sublayer.leave(x, branch, train=train, key=keys[7], drop_rate=drop_rate)
        return BlockOutput(x, weights)

    def project_context(self, context: Float[Array, "B S E"]) -> tuple[Array, Array]:
        """Keys and values [B, H, S, C] of the context, projected once for a whole generation."""
        key, value = self.cross_attention.project_key_value(context)
        return jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)

    def extend(
        self,
        x: Float[Array, "B N D"],
        cache: LayerCache,
        *,
        put: Callable[[Kept, Array], Kept],
        visible: Bool[Array, "B M R"],
        context_mask: Bool[Array, "B S"] | None,
        bias: Float[Array, "1 H M R"] | None = None,
        rotation: Rotation | None = None,
        beam_axis: str | None = None,
    ) -> tuple[Float[Array, "B N D"], LayerCache]:
        """Continue k beams by T tokens, N = k * T, slot by slot, reading the R cells of the cache (theirs included).

        Numbers equal those of `__call__` with `train=False` on the whole sequence.

        Args:
          put: writes their keys or values [B, N, H, C] into the cache.
          visible: which cells each of them may look at; M = N.
          beam_axis: mesh axis over which the beams lie, then `visible` and `bias` are about the M tokens of all of them
            and this device's cells. None: all are here.
        """
        entered = self.attention_sublayer.enter(x, train=False)
        query = self.attention.project_query(entered, rotation)
        key, value = self.attention.project_key_value(entered, rotation)
        cache = replace(cache, self_key=put(cache.self_key, key), self_value=put(cache.self_value, value))
        attend: Callable[..., Array] = self.attention.attend_kept
        if beam_axis is not None:
            attend = partial(attend_across_devices, self.attention, axis=beam_axis)
        branch = attend(
            query,
            recall(cache.self_key, query.dtype),
            recall(cache.self_value, query.dtype),
            mask=visible[:, None],
            bias=bias,
        )
        x = self.attention_sublayer.leave(x, branch, train=False)

        branch = self.cross_attention.attend_kept(
            self.cross_attention.project_query(self.cross_attention_sublayer.enter(x, train=False)),
            recall(cache.cross_key, query.dtype),
            recall(cache.cross_value, query.dtype),
            mask=None if context_mask is None else padding_mask(context_mask),
        )
        x = self.cross_attention_sublayer.leave(x, branch, train=False)

        branch = self.feed_forward(self.feed_forward_sublayer.enter(x, train=False), train=False)
        return self.feed_forward_sublayer.leave(x, branch, train=False), cache
