"""The loop over tokens: it leaves when every row is done and has a cache no longer than needed."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vitjax.decoding.config import Limits

CHUNK = 32
MAX_CHUNKS = (
    8  # each chunk is a copy of the decoder in the program; 8 read 9/16 of the longest cache on average
)

FEWEST_TO_HALVE = 16


@runtime_checkable
class LoopState(Protocol):
    """What the loop looks at: a NamedTuple with these fields among others."""

    @property
    def cache(self) -> Any:
        """The decoder's cache."""

    @property
    def length(self) -> Int[Array, ""]:
        """Tokens chosen so far, prompt included."""

    @property
    def done(self) -> Bool[Array, "B"]:
        """Rows whose result can no longer change."""


State = TypeVar("State", bound=LoopState)


def rooms(limits: Limits) -> tuple[int, ...]:
    """Positions that the cache has room for in each part of the loop; () if the prompt's logits suffice.

    A step reads all tokens but the one it chooses, so the last part has room for `limits.size - 1` at least.
    """
    prompt, size = limits.prompt, limits.size
    if prompt + 1 >= size:
        return ()
    chunk = CHUNK * -(-size // (CHUNK * MAX_CHUNKS))
    first = chunk * (prompt // chunk + 1)
    return tuple(min(end, size) for end in range(first, size - 1 + chunk, chunk))


def first_room(limits: Limits) -> int:
    """Positions that the cache has to begin with."""
    return next(iter(rooms(limits)), limits.prompt)


def run(
    advance: Callable[[State], State],
    state: State,
    limits: Limits,
    *,
    grows: bool = True,
    halve: Callable[[Int[Array, "b"]], Callable[[State], State]] | None = None,
) -> State:
    """Call `advance(state)` until `state.length` is `limits.maximum` or all rows are done.

    The cache grows between the loop's parts, so that a step reads little more than what is written. With `grows` False
    it has room for everything already, and the loop is one.

    Args:
      halve: `advance` for some of the rows alone, given their places. Where there is one and rows are many, those that
        are done are left behind as soon as they are half of them.
    """
    rows = state.done.shape[0]
    few = rows // 2 if halve is not None and rows >= FEWEST_TO_HALVE else 0
    for room in rooms(limits) if grows else (limits.size,):

        def unfinished(state: State, room: int = room) -> Bool[Array, ""]:
            left = jnp.sum(~state.done) > few
            return (state.length <= room) & (state.length < limits.maximum) & left

        grown = state._replace(cache=state.cache.grow(room))  # type: ignore[attr-defined]
        state = jax.lax.while_loop(unfinished, advance, grown)
    if not few or halve is None:
        return state
    places = jnp.argsort(state.done, stable=True)[:few]
    half = jax.tree.map(lambda leaf: leaf[places] if leaf.ndim else leaf, state)
    half = run(halve(places), half, limits, grows=False)

    def put_back(whole: Array, half: Array) -> Array:
        return whole.at[places].set(half) if whole.ndim else half

    # nobody asks for the cache any more
    return jax.tree.map(put_back, state._replace(cache=None), half._replace(cache=None))  # type: ignore[attr-defined]
