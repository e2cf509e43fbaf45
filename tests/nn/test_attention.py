from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, initial, normal, parts
from vitjax.nn import functional
from vitjax.nn.attention import (
    MultiHeadAttention,
    additive_weights,
    causal_mask,
    dot_product_attention,
    dot_product_weights,
    padding_mask,
)
from vitjax.nn.positions import rotary

B, T, S, H, C, D = 2, 3, 5, 2, 4, 8

MASKS = {
    "none": None,
    "padding": padding_mask(jnp.asarray([[1, 1, 1, 1, 0], [1, 0, 1, 0, 0]], bool)),
    "causal": jnp.tril(jnp.ones((1, 1, T, S), bool)),
    "arbitrary": normal(B, H, T, S, seed=7) > -0.5,
    "a row without any source": jnp.ones((B, H, T, S), bool).at[0, 1, 2].set(False),
}


def inputs(seed: int = 0) -> tuple[jax.Array, ...]:
    return tuple(normal(B, n, H, C, seed=seed + i) for i, n in enumerate((T, S, S)))


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("bias", [None, (1, H, T, S)])
@pytest.mark.parametrize("mask", MASKS)
def test_dot_product_against_numpy(mask: str, bias: tuple[int, ...] | None, scale: float | None) -> None:
    query, key, value = (np.asarray(a) for a in inputs())
    added = None if bias is None else np.asarray(normal(*bias, seed=3))
    allowed = None if MASKS[mask] is None else np.asarray(MASKS[mask])
    want = reference.dot_weights(query, key, allowed, added, scale)
    arguments = (MASKS[mask], None if added is None else jnp.asarray(added))
    weights = dot_product_weights(*inputs()[:2], *arguments, query_key_scale=scale)
    np.testing.assert_allclose(weights, want, rtol=1e-5, atol=1e-6)
    got = dot_product_attention(*inputs(), *arguments, query_key_scale=scale)
    np.testing.assert_allclose(got, reference.attend(want, value), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS)
def test_additive_against_numpy(mask: str) -> None:
    query, key, value = inputs()
    kernel, bias = normal(H, C, seed=5), normal(1, H, T, S, seed=6)
    allowed = None if MASKS[mask] is None else np.asarray(MASKS[mask])
    want = reference.additive_weights(
        *(np.asarray(a) for a in (query, key, kernel)), allowed, np.asarray(bias)
    )
    got = additive_weights(query, key, kernel, MASKS[mask], bias)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_masked_sources_get_no_weight_at_all_and_an_empty_row_is_uniform() -> None:
    query, key, _ = inputs()
    for name in ("padding", "causal", "arbitrary"):
        weights = np.asarray(dot_product_weights(query, key, MASKS[name]))
        assert (weights[~np.broadcast_to(MASKS[name], weights.shape)] == 0.0).all()
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    empty = np.asarray(dot_product_weights(query, key, MASKS["a row without any source"]))[0, 1, 2]
    np.testing.assert_allclose(empty, 1 / S, rtol=1e-6)


def test_an_empty_row_has_finite_gradients_and_none_reach_the_scores() -> None:
    query, key, value = inputs()
    mask = jnp.zeros((1, 1, T, S), bool)
    grads = jax.grad(lambda *a: jnp.sum(dot_product_attention(*a, mask) ** 2), argnums=(0, 1, 2))(
        query, key, value
    )
    assert not np.asarray(grads[0]).any() and not np.asarray(grads[1]).any()
    assert np.isfinite(grads[2]).all() and np.asarray(grads[2]).any()


def test_softmax_of_bfloat16_is_float32_and_scores_are_not_rounded() -> None:
    """Scores near 30: rounded to bfloat16 they would be off by 0.06, the weights by 6 %."""
    query, key, value = (a.astype(jnp.bfloat16) for a in inputs())
    query = query * 8
    exact = reference.dot_weights(*(np.asarray(a.astype(jnp.float32)) for a in (query, key)), scale=1.1)
    weights = dot_product_weights(query, key, query_key_scale=1.1)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, exact, rtol=1e-4, atol=1e-6)
    assert dot_product_attention(query, key, value).dtype == jnp.bfloat16


def test_large_scores_do_not_overflow() -> None:
    query, key, _ = inputs()
    weights = dot_product_weights(query * 1e4, key * 1e4, MASKS["padding"])
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(jnp.sum(weights, -1), 1, rtol=1e-6)


def test_causal_and_padding_masks() -> None:
    np.testing.assert_array_equal(causal_mask(4)[0, 0], np.tri(4, dtype=bool))
    mask = jnp.asarray([[True, True, False]])
    assert padding_mask(mask).shape == (1, 1, 1, 3)


def test_cudnn_is_refused_where_there_is_none() -> None:
    with pytest.raises(Exception, match=r"(?i)cudnn|cuda"):
        dot_product_attention(*inputs(), implementation="cudnn")


KINDS: dict[str, dict[str, Any]] = {
    "dot": {},
    "no bias": {"use_bias": False},
    "additive": {"score": "additive"},
    "shared": {"share_query_key": True},
    "query-key norm": {"query_key_norm": True},
    "scale": {"query_key_scale": 0.7},
    "head width": {"head_width": 6},
    "context": {"context_width": 6},
}


def module(seed: int = 0, **options: Any) -> tuple[Any, Any]:
    definition, params, _ = parts(lambda rngs: MultiHeadAttention(D, H, rngs=rngs, **options), seed=seed)
    return definition, params


@partial(jax.jit, static_argnums=0, static_argnames=("train", "return_weights"))
def run(definition, params, *args, train=False, **kwargs):
    return functional.merge(definition, params)(*args, train=train, **kwargs)


@pytest.mark.parametrize("kind", ["dot", "no bias", "head width", "context"])
@pytest.mark.parametrize("mask", ["none", "arbitrary"])
def test_multi_head_against_numpy(kind: str, mask: str) -> None:
    definition, params = module(**KINDS[kind])
    width = KINDS[kind].get("context_width", D)
    x, context, bias = normal(B, T, D), normal(B, S, width, seed=1), normal(1, H, T, S, seed=2)
    allowed = None if mask == "none" else np.asarray(MASKS[mask])[:, :1]
    want = reference.multi_head_attention(
        *(np.asarray(a, float) for a in (x, context)), params, allowed, np.asarray(bias)
    )
    got = run(
        definition, params, x, context, mask=None if allowed is None else jnp.asarray(allowed), bias=bias
    )
    assert got.weights is None
    np.testing.assert_allclose(got.values, want, rtol=1e-4, atol=1e-5)
    assert params["query"]["kernel"].shape == (D, H, KINDS[kind].get("head_width", D // H))
    assert ("bias" in params["out"]) == (kind != "no bias")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_on_request_do_not_change_the_values(kind: str) -> None:
    definition, params = module(**KINDS[kind])
    x, context = normal(B, T, D), normal(B, S, KINDS[kind].get("context_width", D), seed=1)
    plain = run(definition, params, x, context, mask=MASKS["padding"])
    asked = run(definition, params, x, context, mask=MASKS["padding"], return_weights=True)
    np.testing.assert_array_equal(plain.values, asked.values)
    assert plain.weights is None and asked.weights.shape == (B, H, T, S)
    np.testing.assert_allclose(jnp.sum(asked.weights, -1), 1, rtol=1e-6)


def test_additive_module_uses_its_kernel() -> None:
    definition, params = module(score="additive")
    x = normal(B, T, D)
    weights = run(definition, params, x, return_weights=True).weights
    attention = functional.merge(definition, params)
    query, (key, _) = attention.project_query(x), attention.project_key_value(x)
    want = reference.additive_weights(*(np.asarray(a) for a in (query, key, params["score_kernel"])))
    np.testing.assert_allclose(weights, want, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 1000))
def test_shared_query_and_key_give_symmetric_scores(seed: int) -> None:
    definition, params = module(share_query_key=True)
    assert "key" not in params
    x = normal(1, 4, D, seed=seed)
    attention = functional.merge(definition, params)
    query, (key, _) = attention.project_query(x), attention.project_key_value(x)
    scores = jnp.einsum("bthc,bshc->bhts", query, key)
    np.testing.assert_allclose(scores, jnp.swapaxes(scores, 2, 3), rtol=1e-4, atol=1e-5)


def test_separate_query_and_key_do_not() -> None:
    definition, params = module()
    attention = functional.merge(definition, params)
    x = normal(1, 4, D)
    scores = jnp.einsum("bthc,bshc->bhts", attention.project_query(x), attention.project_key_value(x)[0])
    assert np.abs(scores - jnp.swapaxes(scores, 2, 3)).max() > 0.1


def test_query_key_norm_makes_scores_independent_of_the_size_of_the_input() -> None:
    definition, params = module(query_key_norm=True, use_bias=False)
    assert set(params["query_norm"]) == set(params["key_norm"]) == {"scale"}
    x = normal(B, T, D)
    small, large = (run(definition, params, x * f, return_weights=True).weights for f in (1, 100))
    np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-5)
    query = functional.merge(definition, params).project_query(x)
    linear = np.einsum("btd,dhc->bthc", np.asarray(x, float), np.asarray(params["query"]["kernel"], float))
    want = reference.layer_norm(linear, np.asarray(params["query_norm"]["scale"]))
    np.testing.assert_allclose(query, want, rtol=1e-4, atol=1e-5)


def test_query_key_norm_survives_a_large_mean() -> None:
    definition, params = module(query_key_norm=True)
    params["query"]["bias"] = params["query"]["bias"] + 3000
    query = functional.merge(definition, params).project_query(normal(B, T, D))
    linear = np.einsum("btd,dhc->bthc", normal(B, T, D), np.asarray(params["query"]["kernel"], float))
    want = reference.layer_norm(
        linear + np.asarray(params["query"]["bias"], float), np.asarray(params["query_norm"]["scale"])
    )
    np.testing.assert_allclose(query, want, atol=5e-3)


def test_rotation_turns_queries_and_keys_but_not_values() -> None:
    definition, params = module()
    attention = functional.merge(definition, params)
    x, rotation = normal(B, T, D), rotary(jnp.arange(T)[None], C)
    (key, value), (turned_key, turned_value) = (attention.project_key_value(x, r) for r in (None, rotation))
    np.testing.assert_array_equal(value, turned_value)
    assert np.abs(key - turned_key)[:, 1:].max() > 0.1
    assert np.abs(attention.project_query(x) - attention.project_query(x, rotation))[:, 1:].max() > 0.1
    np.testing.assert_allclose(jnp.sum(key**2, -1), jnp.sum(turned_key**2, -1), rtol=1e-5)


def test_dropout_needs_a_key_in_train_mode_and_is_off_otherwise() -> None:
    definition, params = module(dropout_rate=0.5)
    plain_definition, _ = module()
    x = normal(B, T, D)
    want = run(plain_definition, params, x).values
    np.testing.assert_array_equal(run(definition, params, x).values, want)
    with pytest.raises(ValueError, match="needs a key"):
        run(definition, params, x, train=True)
    keys = jax.random.split(jax.random.key(0), 4000)
    many = jax.vmap(lambda k: run(definition, params, x, train=True, key=k).values)(keys)
    assert np.abs(many[0] - want).max() > 0.05
    deviation = np.asarray(many.std(0)) / np.sqrt(len(keys))
    assert (np.abs(many.mean(0) - want) < 6 * deviation + 1e-6).all()


def test_dropout_leaves_the_reported_weights_whole() -> None:
    definition, params = module(dropout_rate=0.5)
    out = run(definition, params, normal(B, T, D), train=True, key=jax.random.key(0), return_weights=True)
    np.testing.assert_allclose(jnp.sum(out.weights, -1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    definition, params = module(**KINDS[kind])
    x, context = normal(B, T, D), normal(B, S, KINDS[kind].get("context_width", D), seed=1)

    def values(params, x, context):
        bias = jnp.linspace(-1, 1, S)[None, None, None]
        return functional.merge(definition, params)(
            x, context, mask=MASKS["padding"], bias=bias, train=False
        ).values

    gradients_match(values, params, x, context)


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_the_gradient_by_a_nudge_is_weight_times_gradient(kind: str) -> None:
    definition, params = module(**KINDS[kind])
    x, context = normal(B, T, D), normal(B, S, D, seed=1)

    def by_nudge(nudge):
        out = run(definition, params, x, context, mask=MASKS["padding"], nudge=nudge, return_weights=True)
        return (out.values**2).sum(), out

    def by_weights(weights):
        attention = functional.merge(definition, params)
        _, values = attention.project_key_value(context)
        return (attention.out(jnp.einsum("bhts,bshc->bthc", weights, values)) ** 2).sum()

    got, out = jax.grad(by_nudge, has_aux=True)(jnp.zeros((B, H, T, S)))
    np.testing.assert_allclose(got, out.weights * jax.grad(by_weights)(out.weights), rtol=1e-4, atol=1e-5)
    assert np.abs(got).max() > 0.1
    plain = run(definition, params, x, context, mask=MASKS["padding"])
    np.testing.assert_allclose(out.values, plain.values, rtol=1e-5, atol=1e-6)
    nudged = run(definition, params, x, context, nudge=jnp.full((B, H, T, S), 0.5), return_weights=True)
    np.testing.assert_allclose(nudged.weights.sum(-1), 1, rtol=1e-6)


def test_initial_projections_are_xavier_uniform_over_all_heads() -> None:
    _, params, _ = initial(lambda rngs: MultiHeadAttention(128, 4, rngs=rngs))
    for name in ("query", "key", "value", "out"):
        kernel = np.asarray(params[name]["kernel"])
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 256), rtol=0.03)
        assert not params[name]["bias"].any()


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match="width 8 is not a multiple of num_heads 3: set head_width"):
        module_with(3)
    with pytest.raises(ValueError, match="share_query_key needs context_width 6 equal to width 8"):
        module_with(2, share_query_key=True, context_width=6)


def module_with(num_heads: int, **options: Any) -> None:
    functional.abstract(lambda rngs: MultiHeadAttention(D, num_heads, rngs=rngs, **options))
