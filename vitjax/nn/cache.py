"""What a decoder remembers between tokens: immutable pytrees that every decoding method can carry through a loop."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class LayerCache:
    """Keys and values of one decoder layer.

    Those of the decoder's own tokens have a slot for each beam and are written in place, never moved; those of the
    context are projected once and shared by all beams.
    """

    self_key: Float[Array, "B K H T C"]
    self_value: Float[Array, "B K H T C"]
    cross_key: Float[Array, "B S H C"]
    cross_value: Float[Array, "B S H C"]


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
    ) -> "DecoderCache":
        """An empty cache around the context's keys and values [B, S, H, C] of each layer."""
        batch, _, heads, width = cross[0][0].shape
        empty = jnp.zeros((batch, num_beams, heads, max_length, width), cross[0][0].dtype)
        return cls(
            layers=tuple(LayerCache(empty, empty, key, value) for key, value in cross),
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


def write(
    buffer: Float[Array, "B K H T C"], new: Float[Array, "B k H t C"], position: Int[Array, ""]
) -> Float[Array, "B K H T C"]:
    """Put `new` into the first k slots from `position` on."""
    return jax.lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), (0, 0, 0, position, 0))


def read_through(
    buffer: Float[Array, "B K H T C"], ancestors: Int[Array, "B k R"]
) -> Float[Array, "B k H R C"]:
    """The first R positions of each beam's history, wherever its ancestors wrote them."""
    length = ancestors.shape[-1]
    if buffer.shape[1] == 1:
        return buffer[:, :, :, :length]
    return jnp.take_along_axis(buffer[:, :, :, :length], ancestors[:, :, None, :, None], axis=1)
