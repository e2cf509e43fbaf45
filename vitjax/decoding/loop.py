"""The loop over tokens: it leaves when every row is done and reads no more of the cache than is written."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vitjax.decoding.config import Limits

CHUNK = 32
MAX_CHUNKS = (
    8  # each chunk is a copy of the decoder in the program; 8 read 9/16 of the longest cache on average
)


@runtime_checkable
class LoopState(Protocol):
    """What the loop looks at."""

    @property
    def length(self) -> Int[Array, ""]:
        """Tokens chosen so far, prompt included."""

    @property
    def done(self) -> Bool[Array, "B"]:
        """Rows whose result can no longer change."""


State = TypeVar("State", bound=LoopState)


def read_lengths(prompt_length: int, max_length: int) -> tuple[int, ...]:
    """How much of the cache the loop's parts read, one part after the other; () if the prompt's logits suffice.

    A step reads all tokens but the one it chooses, so the longest read is `max_length - 1`.
    """
    if prompt_length + 1 >= max_length:
        return ()
    chunk = CHUNK * -(-max_length // (CHUNK * MAX_CHUNKS))
    first = chunk * (prompt_length // chunk + 1)
    return tuple(min(end, max_length) for end in range(first, max_length - 1 + chunk, chunk))


def run(advance: Callable[[State, int], State], state: State, limits: Limits) -> State:
    """Call `advance(state, read_length)` until `state.length` is `limits.maximum` or all rows are done."""
    for read_length in read_lengths(limits.prompt, limits.size):

        def unfinished(state: State, end: int = read_length) -> Bool[Array, ""]:
            return (state.length <= end) & (state.length < limits.maximum) & ~jnp.all(state.done)

        def body(state: State, read_length: int = read_length) -> State:
            return advance(state, read_length)

        state = jax.lax.while_loop(unfinished, body, state)
    return state
