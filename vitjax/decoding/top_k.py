"""The k largest values and their places, fast inside a compiled loop.

Inside a `while_loop` XLA's CPU backend sorts the whole array for `lax.top_k`: 16 ms for 8 x 40,000 values, a hundred
times what finding the ten largest costs, and much more where many are equal (benchmarks/NOTES.md). Here one pass finds
the largest of each block, and only the k best blocks are searched.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 64
TAKEN = jnp.iinfo(jnp.int32).min
MINUS_ZERO = TAKEN  # the bits of -0.0; adding 0.0 would do, but the compiler takes that for doing nothing


def top_k(values: Float[Array, "B N"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """Like `jax.lax.top_k` in everything, order of equal values (lowest place first) and -inf included."""
    size = values.shape[-1]
    if k > size:
        raise ValueError(f"top_k of {k} among {size} values: expected at most as many as there are")
    # a program may be exported for other platforms than the one it is traced on
    return jax.lax.platform_dependent(
        values, cpu=partial(_by_blocks, k=k), default=lambda values: tuple(jax.lax.top_k(values, k))
    )


def _by_blocks(values: Float[Array, "B N"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    keys, size = ordered(values), values.shape[-1]
    blocks = -(-size // BLOCK)
    if blocks <= k:
        _, places = _largest(keys, k)
    else:
        keys = jnp.pad(keys, ((0, 0), (0, blocks * BLOCK - size)), constant_values=TAKEN)
        keys = keys.reshape(-1, blocks, BLOCK)
        # The k largest lie in the k blocks with the largest maxima; in order, so that equal values keep theirs.
        _, best = _largest(jnp.max(keys, axis=-1), k)
        best = jnp.sort(best, axis=-1)
        candidates = jnp.take_along_axis(keys, best[:, :, None], axis=1).reshape(-1, k * BLOCK)
        _, inner = _largest(candidates, k)
        places = jnp.take_along_axis(best, inner // BLOCK, axis=1) * BLOCK + inner % BLOCK
    return jnp.take_along_axis(values, places, axis=1), places


def argmax(values: Float[Array, "*B N"]) -> Int[Array, "*B"]:
    """Like `jnp.argmax`, which takes fifteen times as long in a loop on a CPU; NaN is not found."""
    places = jnp.arange(values.shape[-1], dtype=jnp.int32)
    largest = jnp.max(values, axis=-1, keepdims=True)
    return jnp.min(jnp.where(values == largest, places, values.shape[-1] - 1), axis=-1)


def ordered(values: Float[Array, "*B N"]) -> Int[Array, "*B N"]:
    """Integers in the order of float32 values, all above `TAKEN`; 0.0 and -0.0 are one."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    bits = jnp.where(bits == MINUS_ZERO, 0, bits)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _largest(keys: Int[Array, "B N"], k: int) -> tuple[Int[Array, "B k"], Int[Array, "B k"]]:
    """The k largest, one after the other; the first of equal ones first."""
    places = jnp.arange(keys.shape[-1])

    def take(keys: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        largest = jnp.max(keys, axis=-1, keepdims=True)
        place = jnp.min(jnp.where(keys == largest, places, places.size), axis=-1, keepdims=True)
        return jnp.where(places == place, TAKEN, keys), (largest[:, 0], place[:, 0])

    _, (largest, place) = jax.lax.scan(take, keys, length=k)
    return largest.T, place.T
