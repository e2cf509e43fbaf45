from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from tests.nn import residual
from tests.nn.trees import normal, parts
from vitjax.nn import functional
from vitjax.nn.convolution import EXPANSION, ResidualBlock

# kind, inputs, stride, strides of the branch, whether the shortcut is projected; the width is 3
BLOCKS = {
    "basic": ("basic", 3, 1, (1, 1), False),
    "basic wider": ("basic", 2, 1, (1, 1), True),
    "basic strided": ("basic", 3, 2, (2, 1), True),
    "bottleneck": ("bottleneck", 12, 1, (1, 1, 1), False),
    "bottleneck wider": ("bottleneck", 3, 1, (1, 1, 1), True),
    "bottleneck strided": ("bottleneck", 12, 2, (1, 2, 1), True),
}


def build(name, dtype="float32"):
    kind, inputs, stride, *_ = BLOCKS[name]
    definition, params, stats = parts(
        lambda rngs: ResidualBlock(inputs, 3, kind=kind, stride=stride, dtype=dtype, rngs=rngs)
    )
    return definition, params, jax.tree.map(lambda s: s * (1 + 0.3 * normal(*s.shape)) + 0.1, stats)


@partial(jax.jit, static_argnums=0, static_argnames="train")
def run(definition, params, stats, x, *, train):
    block = functional.merge(definition, params, stats)
    return block(x, train=train), functional.stats_of(block)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_the_formula(name, size, train):
    _, inputs, _, strides, projects = BLOCKS[name]
    definition, params, stats = build(name)
    assert ("conv_shortcut" in params) == projects
    x = normal(2, *size, inputs)
    got, _ = run(definition, params, stats, x, train=train)
    want = residual.block(np.asarray(x), params, stats, strides, train=train)
    assert np.mean(want > 0) > 0.2
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", EXPANSION)
def test_a_new_block_is_its_shortcut(kind):
    x = normal(2, 4, 4, 3 * EXPANSION[kind])
    out = jax.jit(lambda x: ResidualBlock(x.shape[-1], 3, kind=kind, rngs=nnx.Rngs(0))(x, train=True))(x)
    np.testing.assert_allclose(out, jax.nn.relu(x))


@pytest.mark.parametrize("name", ["basic", "bottleneck strided"])
def test_train_mode_moves_the_statistics_of_every_norm(name):
    definition, params, stats = build(name)
    x = normal(4, 4, 4, BLOCKS[name][1])
    _, same = run(definition, params, stats, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    _, updated = run(definition, params, stats, x, train=True)
    moved = jax.tree.map(lambda a, b: bool(jnp.all(a != b)), stats, updated)
    assert set(moved) == {n for n in params if n.startswith("norm")} and all(jax.tree.leaves(moved))
    first = residual.convolve(np.asarray(x), params["conv1"]["kernel"])
    want = 0.9 * stats["norm1"]["mean"] + 0.1 * first.mean((0, 1, 2))
    np.testing.assert_allclose(updated["norm1"]["mean"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["basic wider", "bottleneck strided"])
def test_gradients(name, train):
    # In float64, where the step can be so small that it crosses no kink of a ReLU.
    with jax.enable_x64(True):
        definition, *trees = build(name, dtype="float64")
        params, stats, x = jax.tree.map(
            lambda leaf: leaf.astype("float64"), (*trees, normal(2, 4, 4, BLOCKS[name][1]))
        )
        check_grads(
            lambda params, x: run(definition, params, stats, x, train=train)[0],
            (params, x),
            order=1,
            modes=("fwd", "rev"),
            eps=1e-6,
            atol=1e-6,
            rtol=1e-6,
        )


def test_bfloat16_arithmetic_keeps_parameters_and_statistics_in_float32():
    definition, params, stats = build("bottleneck strided", dtype="bfloat16")
    x = normal(2, 4, 4, 12)
    out, updated = run(definition, params, stats, x.astype(jnp.bfloat16), train=True)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((params, updated))} == {jnp.dtype("float32")}
    want = residual.block(np.asarray(x), params, stats, (1, 2, 1), train=True)
    np.testing.assert_allclose(out.astype(jnp.float32), want, atol=0.15)
