"""What a decoder remembers between tokens: immutable pytrees that every decoding method can carry through a loop."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

CacheDtype = Literal["float32", "bfloat16", "int8"]


class Kept(NamedTuple):
    """Vectors as the cache keeps them: `data` [..., C], and for int8 a float32 `scale` [..., 1], one for each head's
    vector (absmax / 127), else None.
    """

    data: Array
    scale: Array | None


def keep(vectors: Float[Array, "*N C"], dtype: CacheDtype | None) -> Kept:
    """Store vectors as `dtype`; None leaves them as they are."""
    if dtype != "int8":
        return Kept(vectors if dtype is None else vectors.astype(dtype), None)
    vectors = vectors.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True) / 127, jnp.finfo(jnp.float32).tiny)
    return Kept(jnp.round(vectors / scale).astype(jnp.int8), scale)


def recall(kept: Kept, dtype: Any) -> Float[Array, "*N C"]:
    """The vectors again, in the dtype of the arithmetic."""
    if kept.scale is None:
        return kept.data.astype(dtype)
    return (kept.data.astype(jnp.float32) * kept.scale).astype(dtype)


@struct.dataclass
class LayerCache:
    """Keys and values of one decoder layer.

    Those of the decoder's own tokens [B, K, H, T, C] have a slot for each beam and are written in place, never moved;
    those of the context [B, H, S, C] are projected once and shared by all beams. Heads come before positions, so that
    one head's keys lie together: with [B, S, H, C] a greedy step on CPU took twice as long (benchmarks/NOTES.md).
    """

    self_key: Kept
    self_value: Kept
    cross_key: Kept
    cross_value: Kept


@struct.dataclass
class DecoderCache:
    """The Transformer decoder's cache.

    Attributes:
      layers: one `LayerCache` a layer.
      context_mask: [B, S], True where the context is real, or None.
      ancestors: slot in which the keys of position t of beam k lie. A beam that continues another changes its row
        of this table and nothing else.
      valid: False where the prompt is padded on the left.
      position: number of positions written.
    """

    layers: tuple[LayerCache, ...]
    context_mask: Bool[Array, "B S"] | None
    ancestors: Int[Array, "B K T"]
    valid: Bool[Array, "B T"]
    position: Int[Array, ""]

    @classmethod
    def create(
        cls,
        cross: list[tuple[Array, Array]],
        context_mask: Bool[Array, "B S"] | None,
        *,
        num_beams: int,
        max_length: int,
        dtype: CacheDtype | None = None,
    ) -> "DecoderCache":
        """An empty cache around the context's keys and values [B, H, S, C] of each layer; `dtype` None is theirs."""
        batch, heads, _, width = cross[0][0].shape
        empty = keep(jnp.zeros((batch, num_beams, heads, max_length, width), cross[0][0].dtype), dtype)
        return cls(
            layers=tuple(
                LayerCache(empty, empty, keep(key, dtype), keep(value, dtype)) for key, value in cross
            ),
            context_mask=context_mask,
            ancestors=jnp.zeros((batch, num_beams, max_length), jnp.int32),
            valid=jnp.ones((batch, max_length), bool),
            position=jnp.int32(0),
        )

    def reorder(self, parents: Int[Array, "B K"]) -> "DecoderCache":
        """Let beam k continue what beam `parents[b, k]` wrote."""
        return replace(self, ancestors=jnp.take_along_axis(self.ancestors, parents[:, :, None], axis=1))

    def positions(self, length: int) -> Int[Array, "B T"]:
        """Places of the next `length` tokens in each row's sequence, left padding not counted."""
        padded = jnp.sum(~self.valid, axis=-1, dtype=jnp.int32)[:, None]
        return jnp.maximum(self.position + jnp.arange(length)[None] - padded, 0)

    def visible(self, length: int, read_length: int) -> Bool[Array, "B T R"]:
        """Which of the first `read_length` positions each of the next `length` tokens may look at."""
        causal = jnp.arange(read_length)[None] <= self.position + jnp.arange(length)[:, None]  # [T, R]
        return causal[None] & self.valid[:, None, :read_length]

    def claim(self, slots: int, length: int) -> "DecoderCache":
        """Note that the first `slots` beams are about to write `length` positions into their own slots.

        A prompt is written by slot 0 alone, for all beams of its row.
        """
        batch, beams, _ = self.ancestors.shape
        own = jnp.arange(beams, dtype=jnp.int32) if slots == beams else jnp.zeros(beams, jnp.int32)
        update = jnp.broadcast_to(own[None, :, None], (batch, beams, length))
        start = (0, 0, self.position)
        return replace(self, ancestors=jax.lax.dynamic_update_slice(self.ancestors, update, start))

    def advance(self, length: int) -> "DecoderCache":
        return replace(self, position=self.position + length)


def write(kept: Kept, new: Float[Array, "B k H t C"], position: Int[Array, ""]) -> Kept:
    """Put `new` into the first k slots of `kept` [B, K, H, T, C] from `position` on."""
    dtype: Any = "int8" if kept.scale is not None else kept.data.dtype.name
    return jax.tree.map(
        lambda old, part: jax.lax.dynamic_update_slice(old, part, (0, 0, 0, position, 0)),
        kept,
        keep(new, dtype),
    )


def read_through(kept: Kept, ancestors: Int[Array, "B k R"]) -> Kept:
    """The first R positions of each beam's history [B, k, H, R, C], wherever its ancestors wrote them.

    One beam is read through its ancestors too, though they are all slot 0: without the copy, XLA on CPU makes four of
    the whole cache.
    """
    _, beams, length = ancestors.shape
    index = ancestors[:, :, None, :, None]
    return jax.tree.map(lambda slots: jnp.take_along_axis(slots[:, :beams, :, :length], index, axis=1), kept)
