"""Beams of one row on different devices: what was written stays where it is, questions and parts of answers travel."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.nn.attention import MultiHeadAttention


def share_of(beams: int, axis: str | None) -> int:
    """How many of K beams are each device's own: K / its size along a mesh axis; all of them if `axis` is None."""
    return beams if axis is None else beams // jax.lax.axis_size(axis)


def own_beams(tables: Any, axis: str | None) -> Any:
    """This device's share of the K beams: arrays [B, K, ...] -> [B, k, ...]."""
    if axis is None:
        return tables

    def own(table: Array) -> Array:
        share = share_of(table.shape[1], axis)
        return jax.lax.dynamic_slice_in_dim(table, jax.lax.axis_index(axis) * share, share, axis=1)

    return jax.tree.map(own, tables)


def all_beams(share: Array, axis: str | None) -> Array:
    """The inverse of `own_beams`: [B, k, ...] of every device -> [B, K, ...] on each of them."""
    return share if axis is None else jax.lax.all_gather(share, axis, axis=1, tiled=True)


def attend_across_devices(
    attention: MultiHeadAttention,
    query: Float[Array, "B k H C"],
    key: Float[Array, "B H R C"],
    value: Float[Array, "B H R C"],
    *,
    mask: Bool[Array, "B 1 K R"],
    bias: Float[Array, "1 H K R"] | None = None,
    axis: str,
) -> Float[Array, "B k D"]:
    """`attention.attend_kept` where keys and values lie on all devices along a mesh axis, and k beams' queries on each.

    Every device answers the queries of all K beams from its own R cells, and each gets the parts of the answers to its
    own k beams back: softmaxes over a part are merged by their maxima and sums (Milakov and Gimelshein 2018). What
    travels are B*K*H*C and B*K*H*(C+2) numbers; keys and values stay. Call it inside `jax.shard_map`.

    Args:
      query: of this device's beams.
      key, value, mask, bias: of this device's cells, the latter two for all K beams.
    """
    scores = attention.score_kept(all_beams(query, axis), key)  # [B, H, K, R]
    if bias is not None:
        scores = scores + bias
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    largest = jnp.max(scores, axis=-1, keepdims=True)  # [B, H, K, 1]
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    values = jnp.einsum(
        "bhts,bhsc->bhtc", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    batch, heads, _, width = values.shape
    parts = jnp.concatenate([values, largest, total], axis=-1)
    parts = parts.reshape(batch, heads, -1, query.shape[1], width + 2)  # [B, H, devices, k, C + 2]
    # From what this device has for the beams of each, to what each has for the beams of this one.
    parts = jax.lax.all_to_all(parts, axis, split_axis=2, concat_axis=2)
    values, largest, total = jnp.split(parts, (width, width + 1), axis=-1)
    weight = jnp.exp(largest - jnp.max(largest, axis=2, keepdims=True))
    values = jnp.sum(values * weight, axis=2) / jnp.sum(total * weight, axis=2)  # [B, H, k, C]
    return attention.out(jnp.swapaxes(values, 1, 2).astype(query.dtype))
