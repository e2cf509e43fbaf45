"""Small decoders that speak the protocol, whose next-token logits are looked up, not learned.

All of them walk one automaton: reading a token takes state s to (7 s + 13 token + 1) mod R, and the logits are
`table[state]`. The state depends on the whole history, so a beam that is given another beam's memory says other things.
A source row is [start state, unused]; `table` comes from a seed that a test in plain NumPy can use as well.
"""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

STATES = 4093


def make_table(
    seed: int, vocabulary: int, *, scale: float = 1.5, stops: tuple[int, ...] = (), bias: float = 0.0
) -> np.ndarray:
    """Logits [R, V] float32; the same in every NumPy (legacy generator)."""
    table = np.random.RandomState(seed).standard_normal((STATES, vocabulary)) * scale
    table[:, list(stops)] += bias
    return table.astype(np.float32)


def next_state(state: Any, token: Any) -> Any:
    return (7 * state + 13 * token + 1) % STATES


class Encoded(NamedTuple):
    start: jax.Array  # [B]


class StateCache(NamedTuple):
    """Like an LSTM's: a small state that moves with the beams."""

    state: jax.Array  # [B, K]
    position: jax.Array

    def reorder(self, parents: jax.Array) -> Self:
        return self._replace(state=jnp.take_along_axis(self.state, parents, axis=1))

    def mark(self):
        return self.state, self.position

    def restore(self, mark):
        return StateCache(*mark)

    def grow(self, max_length):
        return self


class _Table(nnx.Module):
    max_source_length = None
    max_target_length = None

    def __init__(self, table: np.ndarray):
        self.table = nnx.Param(jnp.asarray(table))

    def encode(self, source, *, source_mask=None, train, key=None):
        return Encoded(source[:, 0])

    def prepared(self):
        return self


class StateDecoder(_Table):
    def init_cache(self, encoded, *, num_beams, max_length, dtype=None, beam_axis=None):
        start = jnp.broadcast_to(encoded.start[:, None], (encoded.start.shape[0], num_beams))
        return StateCache(start, jnp.int32(0))

    def prefill(self, cache, prompt, prompt_mask=None):
        state = cache.state
        for t in range(prompt.shape[1]):
            read = next_state(state, prompt[:, t, None])
            state = read if prompt_mask is None else jnp.where(prompt_mask[:, t, None], read, state)
        return self.table[...][state[:, 0]], StateCache(state, cache.position + prompt.shape[1])

    def step(self, cache, tokens):
        state = next_state(cache.state, tokens)
        return self.table[...][state], StateCache(state, cache.position + 1)


class SlotCache(NamedTuple):
    """Like a Transformer's: what slot k wrote stays in slot k, and beams remember where their history lies."""

    start: jax.Array  # [B]
    slots: jax.Array  # [B, K, T] tokens
    ancestors: jax.Array  # [B, K, T]
    valid: jax.Array  # [B, T]
    position: jax.Array

    def reorder(self, parents: jax.Array) -> Self:
        return self._replace(ancestors=jnp.take_along_axis(self.ancestors, parents[:, :, None], axis=1))

    def mark(self):
        return self.position

    def restore(self, mark):
        return self._replace(position=mark)

    def grow(self, max_length: int) -> Self:
        more = ((0, 0), (0, 0), (0, max_length - self.valid.shape[1]))
        return self._replace(
            slots=jnp.pad(self.slots, more, constant_values=10**6),
            ancestors=jnp.pad(self.ancestors, more),
            valid=jnp.pad(self.valid, more[1:], constant_values=True),
        )


class SlotDecoder(_Table):
    """Reads its whole history again at every step, through the ancestors."""

    def init_cache(self, encoded, *, num_beams, max_length, dtype=None, beam_axis=None):
        batch = encoded.start.shape[0]
        return SlotCache(
            start=encoded.start,
            slots=jnp.full((batch, num_beams, max_length), 10**6),
            ancestors=jnp.zeros((batch, num_beams, max_length), jnp.int32),
            valid=jnp.ones((batch, max_length), bool),
            position=jnp.int32(0),
        )

    def prefill(self, cache, prompt, prompt_mask=None):
        length = prompt.shape[1]
        valid = cache.valid if prompt_mask is None else cache.valid.at[:, :length].set(prompt_mask)
        cache = cache._replace(
            slots=cache.slots.at[:, 0, :length].set(prompt), valid=valid, position=cache.position + length
        )
        return self._read(cache)[:, 0], cache

    def step(self, cache, tokens):
        batch, beams, _ = cache.slots.shape
        own = jnp.broadcast_to(jnp.arange(beams, dtype=jnp.int32)[None, :, None], (batch, beams, 1))
        at = (0, 0, cache.position)
        cache = cache._replace(
            slots=jax.lax.dynamic_update_slice(cache.slots, tokens[:, :, None], at),
            ancestors=jax.lax.dynamic_update_slice(cache.ancestors, own, at),
            position=cache.position + 1,
        )
        return self._read(cache), cache

    def extend(self, cache, tokens):
        logits = []
        for t in range(tokens.shape[2]):
            each, cache = self.step(cache, tokens[:, :, t])
            logits.append(each)
        return jnp.stack(logits, axis=2), cache

    def _read(self, cache):
        history = jnp.take_along_axis(cache.slots, cache.ancestors, axis=1)  # [B, K, T]

        def read(state, step):
            token, valid, t = step
            use = valid & (t < cache.position)
            return jnp.where(use, next_state(state, token), state), None

        steps = history.shape[-1]
        start = jnp.broadcast_to(cache.start[:, None], history.shape[:2])
        inputs = (jnp.moveaxis(history, -1, 0), cache.valid.T[:, :, None], jnp.arange(steps))
        state, _ = jax.lax.scan(read, start, inputs)
        return self.table[...][state]


DECODERS = {"state": StateDecoder, "slots": SlotDecoder}
