from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.decoding import loop
from vitjax.decoding.config import Limits


@given(prompt=st.integers(1, 600), new=st.integers(1, 3000))
def test_parts_cover_every_step_and_read_no_more_than_a_chunk_ahead(prompt, new):
    maximum = prompt + new
    parts = loop.read_lengths(prompt, maximum)
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
    assert loop.read_lengths(prompt, maximum) == parts


def test_stops_when_all_rows_are_done(monkeypatch):

    class State(NamedTuple):
        length: Any
        done: Any
        read: Any

    def advance(state, read_length):
        length = state.length + 1
        return State(length, length >= jnp.array([5, 11]), state.read.at[state.length].set(read_length))

    monkeypatch.setattr(loop, "CHUNK", 4)
    state = State(jnp.int32(2), jnp.zeros(2, bool), jnp.zeros(20, jnp.int32))
    state = loop.run(advance, state, Limits(prompt=1, size=20, padding=0, minimum=0, maximum=20))
    assert int(state.length) == 11
    assert state.read.tolist() == [0, 0, 4, 4, 4, 8, 8, 8, 8, 12, 12] + [0] * 9
