"""What a decoder remembers between tokens: immutable pytrees that every decoding method can carry through a loop."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vitjax.nn.beam_parallel import share_of

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
      beam_axis: mesh axis over which the slots lie, the same number k on each device, which has the cells of its own;
        None: all are here. The rest is known to every device, and `ancestors` count the slots of all.
    """

    layers: tuple[LayerCache, ...]
    context_mask: Bool[Array, "B S"] | None
    ancestors: Int[Array, "B K T"]
    valid: Bool[Array, "B T"]
    position: Int[Array, ""]
    beam_axis: str | None = struct.field(pytree_node=False, default=None)

    @classmethod
    def create(
        cls,
        cross: list[tuple[Array, Array]],
        context_mask: Bool[Array, "B S"] | None,
        *,
        num_beams: int,
        max_length: int,
        dtype: CacheDtype | None = None,
        beam_axis: str | None = None,
    ) -> "DecoderCache":
        """An empty cache around the context's keys and values [B, H, S, C] of each layer; `dtype` None is theirs."""
        batch, heads, _, width = cross[0][0].shape
        cells = (batch, heads, max_length * share_of(num_beams, beam_axis))
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
            beam_axis=beam_axis,
        )

    @property
    def num_slots(self) -> int:
        """k, the slots on this device."""
        return share_of(self.ancestors.shape[1], self.beam_axis)

    def grow(self, max_length: int) -> "DecoderCache":
        """Make room for `max_length` positions. A loop that grows its cache now and then reads only what is written."""
        length = self.ancestors.shape[2]

        def cells(kept: Kept) -> Kept:
            return jax.tree.map(lambda a: _pad(a, 2, (max_length - length) * self.num_slots), kept)

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

    def visible(self, beams: int, length: int) -> Bool[Array, "B N R"]:
        """Which of the R = T*k cells here each of the next N = beams * length tokens may look at, beam by beam.

        A prompt, with 1 of several beams, is looked at where it lies on each device: in the first slot.
        """
        batch, all_beams, room = self.ancestors.shape
        causal = jnp.arange(room)[None] <= self.position + jnp.arange(length)[:, None]  # [t, T]
        seen = (causal[None] & self.valid[:, None])[:, None, :, :, None]  # [B, 1, t, T, 1]
        if all_beams > 1:
            slots = jnp.arange(self.num_slots)
            if self.beam_axis is not None and beams > 1:
                slots = slots + jax.lax.axis_index(self.beam_axis) * self.num_slots
            own = self.ancestors[:, :beams, :, None] == slots  # [B, beams, T, k]
            seen = seen & own[:, :, None]
        return seen.reshape(batch, beams * length, room * self.num_slots)

    def claim(self, beams: int, length: int) -> "DecoderCache":
        """Note that the first `beams` are about to write `length` positions into their own slots.

        A prompt is written by slot 0 alone, for all beams of its row; where slots lie on several devices, each writes
        it into its first, but only the very first is asked for it later.
        """
        batch, all_beams, _ = self.ancestors.shape
        every = jnp.arange(all_beams, dtype=jnp.int32)
        own = every if beams == all_beams else jnp.zeros_like(every)
        update = jnp.broadcast_to(own[None, :, None], (batch, all_beams, length))
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
