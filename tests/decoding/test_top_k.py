import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from vitjax.decoding.top_k import BLOCK, top_k

few_values = st.sampled_from([-np.inf, -1e9, -2.5, -1.0, -0.0, 0.0, 1e-30, 3.0])


@functools.cache
def both(size, k):
    """`top_k` and lax's, in one program for each size. To lax -0.0 is less than 0.0, so it gets none."""
    run = jax.jit(lambda values, positive: (top_k(values, k), jax.lax.top_k(positive, k)))
    return lambda values: run(values, values + np.float32(0))


@given(st.data())
def test_equal_values_and_infinities_as_in_lax(data):
    size, k = data.draw(st.sampled_from([(7, 7), (64, 1), (65, 3), (300, 4), (600, 9)]))
    values = data.draw(hnp.arrays(np.float32, (2, size), elements=few_values))
    found, expected = both(size, k)(values)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("size", [5, BLOCK * 8, BLOCK * 9 + 1, 40_000])
@pytest.mark.parametrize("k", [1, 5, 8])
def test_random_values_in_a_loop(size, k):
    values = jax.random.normal(jax.random.key(size), (3, size))
    k = min(k, size)

    def body(step):
        i, _ = step
        return i + 1, top_k(values * (i + 1.0), k)

    start = (jnp.int32(0), top_k(values * 0, k))
    _, (found, at) = jax.jit(lambda: jax.lax.while_loop(lambda s: s[0] < 2, body, start))()
    expected, places = jax.lax.top_k(values * 2.0, k)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(at, places)


def test_too_many():
    with pytest.raises(ValueError, match="top_k of 4 among 3 values"):
        top_k(jnp.zeros((1, 3)), 4)


def test_on_other_platforms_it_is_laxs():
    shape = jax.ShapeDtypeStruct((3, 4000), jnp.float32)
    program = jax.jit(lambda values: top_k(values, 5))
    for platform, laxs in (("cpu", False), ("cuda", True), ("tpu", True)):
        code = jax.export.export(program, platforms=[platform])(shape).mlir_module()
        assert ("chlo.top_k" in code) is laxs, platform
