import random

import numpy as np
import pytest

from vitjax.weights.layout import parse_layout

LAYOUTS = [
    ("(H C) D -> D H C", (5, 3, 4), (12, 5)),
    ("(H C) -> H C", (3, 4), (12,)),
    ("D (H C) -> H C D", (3, 4, 5), (5, 12)),
    ("O I h w -> h w I O", (2, 3, 4, 5), (5, 4, 2, 3)),
    ("D (h w c) -> h w c D", (2, 3, 4, 5), (5, 24)),
    ("1 N D -> N D", (3, 4), (1, 3, 4)),
    ("", (3, 4), (3, 4)),
    ("", (), ()),
]


@pytest.mark.parametrize(("text", "ours", "theirs"), LAYOUTS)
def test_there_and_back_whole_and_in_slices(text, ours, theirs):
    layout = parse_layout(text, len(ours))
    array = np.arange(np.prod(ours, dtype=int)).reshape(ours)
    stored = layout.to_theirs(array)
    assert stored.shape == theirs == layout.their_shape(ours) and stored.flags.c_contiguous
    draw = random.Random(0)
    for _ in range(60):
        index = tuple(slice(*sorted(draw.sample(range(size + 1), 2))) for size in ours)
        index = tuple(draw.choice([part, slice(None)]) for part in index)
        read = np.asarray(stored[layout.their_index(ours, index)])
        np.testing.assert_array_equal(layout.to_ours(read, ours, index), array[index])


def test_only_what_is_wanted_is_read():
    layout = parse_layout("(H C) D -> D H C", 3)
    assert layout.their_index((5, 4, 3), (slice(None), slice(1, 3), slice(None))) == (
        slice(3, 9),
        slice(0, 5),
    )
    assert layout.their_index((5, 4, 3), (slice(2, 3), slice(None), slice(None))) == (
        slice(0, 12),
        slice(2, 3),
    )


def test_against_the_torch_definition_of_heads():
    layout = parse_layout("(H C) D -> D H C", 3)
    weight, x = np.random.default_rng(0).normal(size=(12, 5)), np.ones(5)
    kernel = layout.to_ours(weight, (5, 4, 3), (slice(None),) * 3)
    np.testing.assert_allclose(np.einsum("d,dhc->hc", x, kernel), (weight @ x).reshape(4, 3))


@pytest.mark.parametrize("text", ["a b -> a", "a a -> a a", "a b -> a c"])
def test_a_layout_that_loses_an_axis(text):
    with pytest.raises(ValueError, match="same axes on both sides"):
        parse_layout(text, 2)
