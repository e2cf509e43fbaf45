from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn import reference
from tests.nn.trees import gradients_match, initial, normal, parts
from vitjax.nn import functional
from vitjax.nn.feedforward import GATED, Activation, FeedForward, activation_function

KINDS = get_args(Activation)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"])
def test_activations(name: str) -> None:
    x = np.linspace(-8, 8, 2001)
    got = activation_function(name)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, reference.ACTIVATIONS[name](x), rtol=1e-5, atol=2e-6)


def test_exact_and_tanh_gelu_are_two_functions() -> None:
    x = jnp.linspace(-5, 5, 2001)
    distance = jnp.abs(activation_function("gelu")(x) - activation_function("gelu_tanh")(x)).max()
    assert 4.5e-4 < distance < 5e-4


@pytest.mark.parametrize("activation", KINDS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_against_numpy(activation: str, use_bias: bool) -> None:
    definition, params, _ = parts(
        lambda rngs: FeedForward(6, 10, activation=activation, use_bias=use_bias, rngs=rngs)
    )
    layers = {"up", "gate", "down"} if activation in GATED else {"up", "down"}
    assert set(params) == layers
    assert all(set(layer) == ({"kernel", "bias"} if use_bias else {"kernel"}) for layer in params.values())
    x = normal(2, 3, 6)
    got = functional.merge(definition, params)(x, train=False)
    np.testing.assert_allclose(
        got, reference.feed_forward(np.asarray(x), params, activation), rtol=1e-4, atol=1e-5
    )


def test_each_token_alone() -> None:
    definition, params, _ = parts(lambda rngs: FeedForward(6, 10, rngs=rngs))
    forward = functional.merge(definition, params)
    x = normal(2, 5, 6)
    changed = x.at[1, 3].add(1)
    difference = np.array(forward(changed, train=False) - forward(x, train=False))
    assert np.abs(difference[1, 3]).min() > 0
    difference[1, 3] = 0
    assert not difference.any()


@pytest.mark.parametrize("activation", KINDS)
def test_gradients(activation: str) -> None:
    definition, params, _ = parts(lambda rngs: FeedForward(4, 6, activation=activation, rngs=rngs))

    def run(params, x):
        return functional.merge(definition, params)(x, train=False)

    gradients_match(run, params, normal(2, 4))


def test_dropout_after_both_layers() -> None:
    definition, params, _ = initial(lambda rngs: FeedForward(4, 512, dropout_rate=0.5, rngs=rngs))
    forward = functional.merge(definition, params)
    x = jnp.ones((400, 4))
    out = np.asarray(forward(x, train=True, key=jax.random.key(0)))
    assert abs((out == 0).mean() - 0.5) < 0.07  # the output itself
    kept = out[:, 0][out[:, 0] != 0]
    assert kept.std() > 0.01  # the hidden features differ from row to row
    exact = np.asarray(forward(x, train=False))
    np.testing.assert_allclose(out.mean(0), exact[0], atol=6 * out.std(0).max() / 20)
    assert (exact == exact[0]).all()
    with pytest.raises(ValueError, match="needs a key"):
        forward(x, train=True)


def test_bfloat16() -> None:
    definition, params, _ = parts(
        lambda rngs: FeedForward(6, 10, activation="swiglu", dtype="bfloat16", rngs=rngs)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x = normal(3, 6)
    low = functional.merge(definition, params)(x.astype(jnp.bfloat16), train=False)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        low.astype(np.float32), reference.feed_forward(np.asarray(x), params, "swiglu"), rtol=0.05, atol=0.05
    )


def test_initial_kernels_are_xavier_uniform() -> None:
    _, params, _ = initial(lambda rngs: FeedForward(200, 400, rngs=rngs))
    for name in ("up", "down"):
        limit = np.sqrt(6 / 600)
        kernel = np.asarray(params[name]["kernel"])
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)
        assert not params[name]["bias"].any()


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_without_neurons_it_adds_its_last_bias(activation: Activation) -> None:
    module = FeedForward(4, 0, activation=activation, rngs=nnx.Rngs(0))
    module.down.bias[...] = jnp.arange(4.0)
    got = module(jnp.ones((2, 3, 4)), train=False)
    np.testing.assert_array_equal(got, np.broadcast_to(np.arange(4.0), (2, 3, 4)))
