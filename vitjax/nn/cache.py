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

    Those of the decoder's own tokens [B, H, T*K, C] are written in place and never moved: cell t*K + k is what slot k
    wrote at position t. Those of the context [B, H, S, C] are projected once and shared by all beams.
    """

    self_key: Kept
    self_value: Kept
    cross_key: Kept
    cross_value: Kept


@struct.dataclass
class DecoderCache:
    """The Transformer decoder's cache, with room for T positions of K beams.

    A beam reads its history through a mask over all cells of its row. That is K times the arithmetic of a gather, and
    on CPU less than half its time, since XLA multiplies the keys where they lie (benchmarks/NOTES.md).

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
        cells = (batch, heads, max_length * num_beams)
        # not keep(zeros): XLA would work that out while it compiles, element by element
        empty = Kept(
            jnp.zeros((*cells, width), cross[0][0].dtype if dtype is None else dtype),
            jnp.zeros((*cells, 1)) if dtype == "int8" else None,
        )
        return cls(
            layers=tuple(
                LayerCache(empty, empty, keep(key, dtype), keep(value, dtype)) for key, value in cross
            ),
            context_mask=context_mask,
            ancestors=jnp.zeros((batch, num_beams, max_length), jnp.int32),
            valid=jnp.ones((batch, max_length), bool),
            position=jnp.int32(0),
        )

    def grow(self, max_length: int) -> "DecoderCache":
        """Make room for `max_length` positions. A loop that grows its cache now and then reads only what is written."""
        _, beams, length = self.ancestors.shape

        def cells(kept: Kept) -> Kept:
            return jax.tree.map(lambda a: _pad(a, 2, (max_length - length) * beams), kept)

        return replace(
            self,
            layers=tuple(
                replace(layer, self_key=cells(layer.self_key), self_value=cells(layer.self_value))
                for layer in self.layers
            ),
            ancestors=_pad(self.ancestors, 2, max_length - length),
            valid=_pad(self.valid, 1, max_length - length, value=True),
        )

    def reorder(self, parents: Int[Array, "B K"]) -> "DecoderCache":
        """Let beam k continue what beam `parents[b, k]` wrote."""
        return replace(self, ancestors=jnp.take_along_axis(self.ancestors, parents[:, :, None], axis=1))

    def mark(self) -> Int[Array, ""]:
        """The place to come back to: what is written behind it is not seen, and written over."""
        return self.position

    def restore(self, mark: Int[Array, ""]) -> "DecoderCache":
        """Forget what was written from position `mark` on."""
        return replace(self, position=mark)

    def positions(self, length: int) -> Int[Array, "B t"]:
        """Places of the next `length` tokens in each row's sequence, left padding not counted."""
        padded = jnp.sum(~self.valid, axis=-1, dtype=jnp.int32)[:, None]
        return jnp.maximum(self.position + jnp.arange(length)[None] - padded, 0)

    def visible(self, slots: int, length: int) -> Bool[Array, "B N R"]:
        """Which of the R = T*K cells each of the next N = slots * length tokens may look at, slot by slot."""
        batch, beams, room = self.ancestors.shape
        causal = jnp.arange(room)[None] <= self.position + jnp.arange(length)[:, None]  # [t, T]
        seen = (causal[None] & self.valid[:, None])[:, None, :, :, None]  # [B, 1, t, T, 1]
        if beams > 1:
            own = self.ancestors[:, :slots, :, None] == jnp.arange(beams)  # [B, k, T, K]
            seen = seen & own[:, :, None]
        return seen.reshape(batch, slots * length, room * beams)

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


def write(
    kept: Kept, new: Float[Array, "B N H C"], position: Int[Array, ""], *, length: int, num_beams: int
) -> Kept:
    """Put N = k * `length` vectors, slot by slot, into the first k of `num_beams` slots from `position` on."""
    batch, tokens, heads, width = new.shape
    dtype: Any = "int8" if kept.scale is not None else kept.data.dtype.name
    slots = new.reshape(batch, tokens // length, length, heads, width).transpose(
        0, 3, 2, 1, 4
    )  # [B, H, t, k, C]

    def put(old: Array, part: Array) -> Array:
        part = _pad(part, 3, num_beams - part.shape[3]).reshape(batch, heads, length * num_beams, -1)
        return jax.lax.dynamic_update_slice(old, part, (0, 0, position * num_beams, 0))

    return jax.tree.map(put, kept, keep(slots, dtype))


def _pad(array: Array, axis: int, count: int, value: Any = 0) -> Array:
    """`count` more entries at the end of an axis."""
    widths = [(0, count if index == axis else 0) for index in range(array.ndim)]
    return jnp.pad(array, widths, constant_values=value) if count else array
