import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, normal, parts
from vitjax.nn import functional
from vitjax.nn.norms import make_norm


def build(kind: str, **options):
    return parts(lambda rngs: make_norm(kind, 6, rngs=rngs, **options))


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_layer_norm(epsilon: float) -> None:
    definition, params, _ = build("layer", epsilon=epsilon)
    x = normal(2, 3, 6) * 0.1
    want = reference.layer_norm(x, np.asarray(params["scale"]), np.asarray(params["bias"]), epsilon)
    got = functional.merge(definition, params)(x, train=False)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_rms_norm(epsilon: float) -> None:
    definition, params, _ = build("rms", epsilon=epsilon)
    assert set(params) == {"scale"}
    x = normal(2, 3, 6) * 0.1
    want = reference.rms_norm(x, np.asarray(params["scale"]), epsilon)
    got = functional.merge(definition, params)(x, train=True)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_variance_survives_a_large_mean(kind: str) -> None:
    """E[x^2] - E[x]^2 in float32 loses all digits here; the two-pass variance does not."""
    definition, params, stats = build(kind)
    axis = -1 if kind == "layer" else 0
    x = normal(40, 6) + 3000
    exact = np.asarray(x, float) - np.asarray(x, float).mean(axis, keepdims=True)
    want = exact / np.sqrt((exact**2).mean(axis, keepdims=True) + 1e-6)
    want = want * np.asarray(params["scale"]) + np.asarray(params["bias"])
    got = functional.merge(definition, params, stats)(x, train=True)
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_batch_norm_uses_the_batch_in_train_mode_and_running_statistics_otherwise() -> None:
    definition, params, stats = build("batch")
    scale, bias = np.asarray(params["scale"]), np.asarray(params["bias"])
    np.testing.assert_array_equal(stats["mean"], np.zeros(6))
    np.testing.assert_array_equal(stats["var"], np.ones(6))

    @jax.jit
    def train(stats, x):
        norm = functional.merge(definition, params, stats)
        return norm(x, train=True), functional.stats_of(norm)

    mean, var = np.zeros(6), np.ones(6)
    for seed in range(3):
        x = normal(4, 5, 6, seed=seed) * 2 + 1
        out, stats = train(stats, x)
        flat = np.asarray(x, float).reshape(-1, 6)
        want = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-6) * scale + bias
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)
        mean, var = 0.9 * mean + 0.1 * flat.mean(0), 0.9 * var + 0.1 * flat.var(0)
        np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["var"], var, rtol=1e-5)

    norm = functional.merge(definition, params, stats)
    x = normal(1, 1, 6)
    np.testing.assert_allclose(
        norm(x, train=False), (x - mean) / np.sqrt(var + 1e-6) * scale + bias, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(functional.stats_of(norm)["mean"], stats["mean"])


@pytest.mark.parametrize("kind", ["layer", "rms", "batch"])
def test_bfloat16_output_float32_statistics_and_params(kind: str) -> None:
    definition, params, stats = build(kind, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
    x = (normal(8, 6) + 20).astype(jnp.bfloat16)
    low = functional.merge(definition, params, stats)(x, train=True)
    definition, *_ = build(kind)
    exact = functional.merge(definition, params, stats)(x.astype(jnp.float32), train=True)
    assert low.dtype == jnp.bfloat16
    # a mean of bfloat16s near 20 would be off by up to 0.06
    np.testing.assert_allclose(low.astype(jnp.float32), exact, rtol=2**-7, atol=0.01)


def test_running_statistics_are_not_rounded_to_bfloat16() -> None:
    """A mean of 300.7 would become 300 or 302: off by a deviation."""
    definition, params, stats = build("batch", dtype="bfloat16")
    stats = {"mean": stats["mean"] + 300.7, "var": stats["var"]}
    x = jnp.full((1, 6), 302.0, jnp.bfloat16)
    got = functional.merge(definition, params, stats)(x, train=False)
    want = 1.3 * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(got.astype(jnp.float32)[0], want, rtol=2**-7, atol=0.01)


@given(st.floats(0.1, 100), st.integers(0, 100))
def test_layer_and_rms_norm_ignore_scale(factor: float, seed: int) -> None:
    x = normal(3, 6, seed=seed) + 0.1
    for kind in ("layer", "rms"):
        norm = make_norm(kind, 6, epsilon=0.0, rngs=nnx.Rngs(0))
        np.testing.assert_allclose(norm(x * factor, train=False), norm(x, train=False), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["layer", "rms", "batch"])
@pytest.mark.parametrize("train", [True, False])
def test_gradients(kind: str, train: bool) -> None:
    definition, params, stats = build(kind)

    def run(params, x):
        return functional.merge(definition, params, stats)(x, train=train)

    gradients_match(run, params, normal(24, 6))


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match="norm 'group' is not one of layer, rms, batch"):
        inspect.unwrap(make_norm)("group", 6, rngs=nnx.Rngs(0))
