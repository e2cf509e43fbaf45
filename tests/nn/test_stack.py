from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn.trees import initial, normal, parts
from vitjax.nn import functional
from vitjax.nn.attention import causal_mask
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.stack import layers, run_blocks, stack_blocks

CONFIG = TransformerConfig(width=8, depth=3, num_heads=2, feed_forward_width=12)
FORMS = {
    "scan": {},
    "unrolled": {"unroll": True},
    "remat": {"remat": "full"},
    "remat of all but products": {"remat": "dots"},
    "unrolled remat": {"unroll": True, "remat": "full"},
}


def stack(config: TransformerConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: stack_blocks(lambda r: EncoderBlock(config, rngs=r), config.depth, rngs=rngs))


@partial(jax.jit, static_argnums=(0, 1), static_argnames=("train", "return_weights"))
def forward(config, definition, params, stats, x, *, train=False, key=None, return_weights=False):
    blocks = functional.merge(definition, params, stats)
    out = run_blocks(
        blocks,
        x,
        config=config,
        train=train,
        key=key,
        return_weights=return_weights,
        mask=causal_mask(x.shape[1]),
    )
    return out.x, out.weights, functional.stats_of(blocks)


@cache
def trained(form: str) -> tuple[Any, Any, Any]:
    """Output, running statistics and gradients of one train step, with everything that drops."""
    drops = dict(dropout=0.3, attention_dropout=0.2, stochastic_depth=0.3)
    config = replace(CONFIG, depth=2, norm="batch", **drops, **FORMS[form])
    definition, params, stats = stack(config)

    @jax.jit
    def step(params, key):
        def loss(params):
            out, _, after = forward(config, definition, params, stats, normal(3, 4, 8), train=True, key=key)
            return jnp.mean(out**2), (out, after)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (out, after) = step(params, jax.random.key(5, impl="rbg"))
    return out, after, gradients


def test_layers_are_stacked_and_different() -> None:
    _, params, _ = stack(CONFIG)
    assert params["attention"]["query"]["kernel"].shape == (3, 8, 2, 4)
    _, params, _ = initial(lambda rngs: stack_blocks(lambda r: EncoderBlock(CONFIG, rngs=r), 3, rngs=rngs))
    kernel = np.asarray(params["feed_forward"]["up"]["kernel"])
    assert kernel.shape == (3, 8, 12)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1 and np.abs(kernel[1] - kernel[2]).max() > 0.1


def test_a_stack_is_its_layers_one_after_the_other() -> None:
    definition, params, stats = stack(CONFIG)
    x = normal(2, 4, 8)
    want, weights = x, []
    for block in layers(functional.merge(definition, params), 3):
        assert isinstance(block, EncoderBlock)
        out = block(want, mask=causal_mask(4), train=False, return_weights=True)
        want, weights = out.x, [*weights, out.weights]
    got, got_weights, _ = forward(CONFIG, definition, params, stats, x, return_weights=True)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got_weights, np.stack(weights), rtol=1e-5, atol=1e-6)
    assert forward(CONFIG, definition, params, stats, x)[1] is None


@pytest.mark.parametrize("form", [form for form in FORMS if form != "scan"])
def test_all_forms_agree(form: str) -> None:
    (out, stats, gradients), (want_out, want_stats, want_gradients) = trained(form), trained("scan")
    np.testing.assert_allclose(out, want_out, rtol=1e-5, atol=1e-5)
    moved = stats["attention_sublayer"]["norm"]["mean"]
    assert moved.shape == (2, 8) and np.abs(moved).max(axis=1).min() > 0
    for got, want in ((stats, want_stats), (gradients, want_gradients)):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("form", ["remat", "remat of all but products"])
def test_remat_is_in_the_program(form: str) -> None:
    config = replace(CONFIG, **FORMS[form])
    definition, params, stats = stack(config)
    assert "remat" in str(
        jax.make_jaxpr(partial(forward, config, definition))(params, stats, normal(1, 4, 8))
    )
    definition, params, stats = stack(CONFIG)
    plain = str(jax.make_jaxpr(partial(forward, CONFIG, definition))(params, stats, normal(1, 4, 8)))
    assert "remat" not in plain and "scan" in plain


def test_statistics_stay_in_eval_mode() -> None:
    config = replace(CONFIG, norm="batch")
    definition, params, stats = stack(config)
    after = forward(config, definition, params, stats, normal(3, 4, 8))[2]
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(stats), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_layer_has_a_dropout_key_of_its_own() -> None:
    """Two layers that only add a constant: were their masks the same, features would be dropped twice or never."""
    config = replace(CONFIG, depth=2, dropout=0.5, activation="relu")
    definition, params, stats = stack(config)
    params = jax.tree.map(jnp.zeros_like, params)
    params["attention"]["out"]["bias"] = jnp.ones((2, 8))
    x = jnp.zeros((50, 4, 8))
    out, _, _ = forward(config, definition, params, stats, x, train=True, key=jax.random.key(0, impl="rbg"))
    values, counts = np.unique(np.asarray(out), return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 2.0, 4.0])  # dropped in both, in one, in none
    np.testing.assert_allclose(counts / counts.sum(), [0.25, 0.5, 0.25], atol=0.06)


def test_train_mode_needs_a_key_where_something_is_dropped() -> None:
    x = normal(2, 4, 8)
    for option in ("dropout", "attention_dropout", "stochastic_depth"):
        config = replace(CONFIG, **{option: 0.1})
        definition, params, stats = stack(config)
        with pytest.raises(ValueError, match="needs a key"):
            forward(config, definition, params, stats, x, train=True)
        forward(config, definition, params, stats, x)
    definition, params, stats = stack(CONFIG)
    np.testing.assert_array_equal(
        forward(CONFIG, definition, params, stats, x, train=True)[0],
        forward(CONFIG, definition, params, stats, x)[0],
    )


def test_stochastic_depth_grows_with_the_layer() -> None:
    """Branches are constants that tell their layer: the sum says which were dropped."""
    config = replace(CONFIG, stochastic_depth=0.6)
    definition, params, stats = stack(config)
    params = jax.tree.map(jnp.zeros_like, params)
    out, examples = [], 4000
    for layer in range(3):
        only = jnp.zeros((3, 8)).at[layer].set(1.0)
        params["feed_forward"]["down"]["bias"] = only
        x, _, _ = forward(
            config,
            definition,
            params,
            stats,
            jnp.zeros((examples, 1, 8)),
            train=True,
            key=jax.random.key(1, impl="rbg"),
        )
        kept = np.asarray(x)[:, 0]
        assert (kept == kept[:, :1]).all()
        out.append((kept[:, 0] == 0).mean())
    np.testing.assert_allclose(out, [0.0, 0.3, 0.6], atol=5 * np.sqrt(0.25 / examples))
    assert out[0] == 0.0
