from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.decoding import loop
from vitjax.decoding.config import Limits


def limits(prompt, maximum):
    return Limits(prompt=prompt, size=maximum, padding=0, minimum=0, maximum=maximum)


@given(prompt=st.integers(1, 600), new=st.integers(1, 3000))
def test_parts_cover_every_step_and_read_no_more_than_a_chunk_ahead(prompt, new):
    maximum = prompt + new
    parts = loop.rooms(limits(prompt, maximum))
    assert list(parts) == sorted(set(parts))
    assert len(parts) <= loop.MAX_CHUNKS + 1
    steps = range(prompt + 1, maximum)  # lengths with which a step is taken
    if not steps:
        assert parts == ()
        return
    assert steps[-1] <= parts[-1] <= maximum
    assert len(parts) == 1 or parts[-2] < steps[-1]
    assert parts[0] > prompt


@pytest.mark.parametrize(
    ("prompt", "maximum", "parts"),
    [
        (1, 2, ()),
        (1, 3, (3,)),
        (1, 33, (32,)),
        (1, 34, (32, 34)),
        (1, 96, (32, 64, 96)),
        (32, 64, (64,)),
        (40, 50, (50,)),
    ],
)
def test_examples(prompt, maximum, parts):
    assert loop.rooms(limits(prompt, maximum)) == parts
    assert loop.first_room(limits(prompt, maximum)) == (parts[0] if parts else prompt)


def test_stops_when_all_rows_are_done(monkeypatch):

    class Cache(NamedTuple):
        room: Any

        def grow(self, max_length):
            return Cache(jnp.int32(max_length))

    class State(NamedTuple):
        cache: Any
        length: Any
        done: Any
        read: Any

    def advance(state):
        length = state.length + 1
        read = state.read.at[state.length].set(state.cache.room)
        return State(state.cache, length, length >= jnp.array([5, 11]), read)

    monkeypatch.setattr(loop, "CHUNK", 4)
    state = State(Cache(jnp.int32(0)), jnp.int32(2), jnp.zeros(2, bool), jnp.zeros(20, jnp.int32))
    state = loop.run(advance, state, limits(1, 20))
    assert int(state.length) == 11
    assert state.read.tolist() == [0, 0, 4, 4, 4, 8, 8, 8, 8, 12, 12] + [0] * 9
