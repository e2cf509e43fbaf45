"""Attention: one function for the arithmetic, one module for the projections.

Shapes: queries [B, T, H, C], keys and values [B, S, H, C]. Masks are boolean, True where a query may look, and
broadcast to [B, H, T, S]; biases are added to the scores and broadcast the same way.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vitjax.nn.positions import Rotation, rotate
from vitjax.nn.regularization import dropout

Implementation = Literal["xla", "cudnn"]
Score = Literal["dot", "additive"]
QKVBias = Literal["all", "query_value", "none"]


def causal_mask(length: int) -> Bool[Array, "1 1 T T"]:
    """Position t may look at positions <= t."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def padding_mask(mask: Bool[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """No query may look at a padded position (False in `mask`)."""
    return mask[:, None, None, :]


def softmax_scores(
    scores: Float[Array, "B H T S"], mask: Bool[Array, "#B #H #T S"] | None, bias: Array | None
) -> Float[Array, "B H T S"]:
    """Softmax over the sources in float32. A query that may look nowhere gets uniform weights, not NaN."""
    scores = scores.astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def cudnn_can(query: Array, key: Array, mask: Array | None, bias: Array | None) -> bool:
    """Whether cuDNN's fused attention takes these arguments (FlashAttention; jax.nn.dot_product_attention)."""
    width = query.shape[-1]
    return (
        jax.default_backend() == "gpu"
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and width % 8 == 0
        and width <= 256
        and mask is None
        and bias is None
        and query.shape[1] > 1
        and isinstance(query.shape[0], int)  # any other batch is that of a program for all platforms
    )


def dot_product_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S H C"],
    value: Float[Array, "B S H C"],
    mask: Bool[Array, "#B #H #T S"] | None = None,
    bias: Float[Array, "#B #H #T S"] | None = None,
    *,
    query_key_scale: float | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "B T H C"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1): softmax(q k^T * scale + bias) v.

    Args:
      query_key_scale: factor on the scores, 1 / sqrt(C) if None.
      implementation: `xla` (two einsums), `cudnn` (fused; raises where it cannot), or None: cuDNN where device, dtype
        and shapes allow, else XLA.
    """
    scale = query.shape[-1] ** -0.5 if query_key_scale is None else query_key_scale
    if implementation is None:
        implementation = "cudnn" if cudnn_can(query, key, mask, bias) else "xla"
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(
            query, key, value, bias=bias, mask=mask, scale=scale, implementation="cudnn"
        )
    weights = dot_product_weights(query, key, mask, bias, query_key_scale=scale)
    return jnp.einsum("bhts,bshc->bthc", weights.astype(value.dtype), value)


def dot_product_weights(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S H C"],
    mask: Bool[Array, "#B #H #T S"] | None = None,
    bias: Float[Array, "#B #H #T S"] | None = None,
    *,
    query_key_scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """The weights of `dot_product_attention`: float32, each row sums to 1."""
    scale = query.shape[-1] ** -0.5 if query_key_scale is None else query_key_scale
    # rounded to bfloat16, a score of 30 would be off by 0.06
    scores = jnp.einsum("bthc,bshc->bhts", query, key, preferred_element_type=jnp.float32)
    return softmax_scores(scores * scale, mask, bias)


def additive_weights(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S H C"],
    kernel: Float[Array, "H C"],
    mask: Bool[Array, "#B #H #T S"] | None = None,
    bias: Float[Array, "#B #H #T S"] | None = None,
) -> Float[Array, "B H T S"]:
    """Weights of additive attention (Bahdanau et al. 2015): softmax(kernel . tanh(q + k)), B*T*S*H*C of memory."""
    return softmax_scores(additive_scores(query, key, kernel), mask, bias)


def additive_scores(
    query: Float[Array, "B T H C"], key: Float[Array, "B S H C"], kernel: Float[Array, "H C"]
) -> Float[Array, "B H T S"]:
    """kernel . tanh(q + k) in float32, before mask, bias and softmax."""
    hidden = jnp.tanh(query[:, :, None] + key[:, None])  # [B, T, S, H, C]
    kernel = kernel.astype(hidden.dtype)
    return jnp.einsum("btshc,hc->bhts", hidden, kernel, preferred_element_type=jnp.float32)


class AttentionOutput(NamedTuple):
    """`values` [B, T, D]; `weights` [B, H, T, S], None unless asked for."""

    values: Array
    weights: Array | None


class MultiHeadAttention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017, 3.2.2), over itself or over a context.

    The pieces `project_query`, `project_key_value`, `attend` are public, so that a decoder can keep keys and values.

    Args:
      width: D, features in and out.
      num_heads: H; the head width is C = `head_width` or D / H.
      context_width: features of the context when it is not D.
      score: `dot` or `additive`.
      share_query_key: one matrix for queries and keys; q k^T is then symmetric, with rotary positions too.
      query_key_norm: LayerNorm without bias over C on queries and keys (Dehghani et al. 2023, ViT-22B).
      query_key_scale: factor on dot scores; None means 1 / sqrt(C).
      qkv_bias: with `use_bias`, which of queries, keys and values have one; softmax does not see that of the keys.
      dropout_rate: on the attention weights.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        head_width: int | None = None,
        context_width: int | None = None,
        score: Score = "dot",
        share_query_key: bool = False,
        query_key_norm: bool = False,
        query_key_scale: float | None = None,
        use_bias: bool = True,
        qkv_bias: QKVBias = "all",
        dropout_rate: float = 0.0,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        if head_width is None and width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}: set head_width")
        if share_query_key and context_width not in (None, width):
            raise ValueError(f"share_query_key needs context_width {context_width} equal to width {width}")
        head_width = head_width or width // num_heads
        common: dict[str, Any] = dict(
            use_bias=use_bias,
            dtype=jnp.dtype(dtype),
            param_dtype=jnp.float32,
            kernel_init=nnx.initializers.xavier_uniform(),
            rngs=rngs,
        )
        heads = (num_heads, head_width)
        query_value = {**common, "use_bias": use_bias and qkv_bias != "none"}
        self.query = nnx.LinearGeneral(width, heads, **query_value)
        if not share_query_key:
            key = {**common, "use_bias": use_bias and qkv_bias == "all"}
            self.key = nnx.LinearGeneral(context_width or width, heads, **key)
        self.value = nnx.LinearGeneral(context_width or width, heads, **query_value)
        self.out = nnx.LinearGeneral(heads, width, axis=(-2, -1), **common)
        if score == "additive":
            self.score_kernel = nnx.Param(nnx.initializers.lecun_normal(-1, -2)(rngs.params(), heads))
        if query_key_norm:
            norm: dict[str, Any] = dict(
                use_bias=False, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
            )
            self.query_norm = nnx.LayerNorm(head_width, **norm)
            self.key_norm = nnx.LayerNorm(head_width, **norm)
        self.num_heads = num_heads
        self.score = score
        self.share_query_key = share_query_key
        self.query_key_norm = query_key_norm
        self.query_key_scale = query_key_scale
        self.dropout_rate = dropout_rate

    def project_query(
        self, x: Float[Array, "B T D"], rotation: Rotation | None = None
    ) -> Float[Array, "B T H C"]:
        query = self.query(x)
        if self.query_key_norm:
            query = self.query_norm(query)
        return rotate(query, rotation) if rotation is not None else query

    def project_key_value(
        self, context: Float[Array, "B S E"], rotation: Rotation | None = None
    ) -> tuple[Float[Array, "B S H C"], Float[Array, "B S H C"]]:
        key = self.query(context) if self.share_query_key else self.key(context)
        if self.query_key_norm:
            key = self.key_norm(key)
        return (rotate(key, rotation) if rotation is not None else key), self.value(context)

    def attend(
        self,
        query: Float[Array, "B T H C"],
        key: Float[Array, "B S H C"],
        value: Float[Array, "B S H C"],
        *,
        mask: Bool[Array, "#B #H #T S"] | None = None,
        bias: Float[Array, "#B #H #T S"] | None = None,
        train: bool,
        dropout_key: Array | None = None,
        nudge: Float[Array, "B H T S"] | None = None,
        return_weights: bool = False,
    ) -> AttentionOutput:
        """From projected queries, keys and values.

        Args:
          nudge: the weights are multiplied by 1 + nudge, so that the gradient of anything by it, at 0, is each weight
            times the gradient by that weight. The weights given back are without it.
        """
        drops = train and self.dropout_rate > 0
        if self.score == "dot" and not return_weights and not drops and nudge is None:
            values = dot_product_attention(
                query, key, value, mask, bias, query_key_scale=self.query_key_scale
            )
            return AttentionOutput(self.out(values), None)
        if self.score == "dot":
            weights = dot_product_weights(query, key, mask, bias, query_key_scale=self.query_key_scale)
        else:
            weights = additive_weights(query, key, self.score_kernel[...], mask, bias)
        used = weights if nudge is None else weights * (1 + nudge)
        dropped = dropout(used, self.dropout_rate, train=train, key=dropout_key)
        values = jnp.einsum("bhts,bshc->bthc", dropped.astype(value.dtype), value)
        return AttentionOutput(self.out(values), weights if return_weights else None)

    def attend_kept(
        self,
        query: Float[Array, "B T H C"],
        key: Float[Array, "B H S C"],
        value: Float[Array, "B H S C"],
        *,
        mask: Bool[Array, "#B #H #T S"] | None = None,
        bias: Float[Array, "#B #H #T S"] | None = None,
    ) -> Float[Array, "B T D"]:
        """`attend` in evaluation mode for keys and values as a cache keeps them: heads first.

        With heads first XLA on CPU multiplies the few queries of a step with the keys where they lie, and copies none.
        """
        weights = softmax_scores(self.score_kept(query, key), mask, bias)
        values = jnp.einsum("bhts,bhsc->bhtc", weights.astype(value.dtype), value)
        return self.out(jnp.swapaxes(values, 1, 2))

    def score_kept(
        self, query: Float[Array, "B T H C"], key: Float[Array, "B H S C"]
    ) -> Float[Array, "B H T S"]:
        """Scores of keys as a cache keeps them: float32, before mask, bias and softmax."""
        if self.score == "additive":
            return additive_scores(query, jnp.swapaxes(key, 1, 2), self.score_kernel[...])
        scale = query.shape[-1] ** -0.5 if self.query_key_scale is None else self.query_key_scale
        query = jnp.swapaxes(query, 1, 2)  # [B, H, T, C]
        return jnp.einsum("bhtc,bhsc->bhts", query, key, preferred_element_type=jnp.float32) * scale

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S E"] | None = None,
        *,
        mask: Bool[Array, "#B #H #T S"] | None = None,
        bias: Float[Array, "#B #H #T S"] | None = None,
        rotation: Rotation | None = None,
        train: bool,
        key: Array | None = None,
        nudge: Float[Array, "B H T S"] | None = None,
        return_weights: bool = False,
    ) -> AttentionOutput:
        """Attend from `x` to `context` (to `x` itself if None). `rotation` turns queries and keys alike."""
        query = self.project_query(x, rotation)
        keys, values = self.project_key_value(x if context is None else context, rotation)
        return self.attend(
            query,
            keys,
            values,
            mask=mask,
            bias=bias,
            train=train,
            dropout_key=key,
            nudge=nudge,
            return_weights=return_weights,
        )
