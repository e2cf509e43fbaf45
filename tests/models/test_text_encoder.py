from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, parts
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig

V, LENGTH = 11, 6
T = TransformerConfig(width=8, depth=2, num_heads=2, feed_forward_width=12)
CONFIG = TextEncoderConfig(T, vocabulary_size=V, max_length=LENGTH)

OPTIONS: dict[str, dict[str, Any]] = {
    "sinusoidal": {},
    "Vaswani": {"transformer": replace(T, norm_position="post", activation="relu")},
    "none": {"positions": "none", "scale_embedding": False},
    "learned, concatenated": {"positions": "learned", "embedding_combination": "concat"},
    "relative": {"positions": "relative", "transformer": replace(T, norm="rms")},
    "rotary": {"positions": "rotary"},
}


@cache
def model(config: TextEncoderConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: config.build(rngs=rngs))


def named(option: str) -> tuple[Any, Any, Any]:
    return model(replace(CONFIG, **OPTIONS[option]))


@partial(jax.jit, static_argnums=0, static_argnames="train")
def encode(definition, params, stats, source, *, source_mask=None, train=False, key=None):
    module = functional.merge(definition, params, stats)
    return module.encode(source, source_mask=source_mask, train=train, key=key)


def random_tokens(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=5)
@given(seed=st.integers(0, 99), length=st.integers(1, LENGTH - 1))
def test_padding_invariance(option: str, seed: int, length: int) -> None:
    """What stands in the padding is never seen: the real tokens keep their vectors bit for bit."""
    definition, params, stats = named(option)
    source = random_tokens(seed, 2, LENGTH)
    mask = jnp.arange(LENGTH)[None] < jnp.asarray([[LENGTH], [length]])
    other = jnp.where(mask, source, (source + 1) % V)
    (want, given_back), (got, _) = (
        encode(definition, params, stats, s, source_mask=mask) for s in (source, other)
    )
    np.testing.assert_array_equal(given_back, mask)
    np.testing.assert_array_equal(np.asarray(got)[np.asarray(mask)], np.asarray(want)[np.asarray(mask)])


@pytest.mark.parametrize("option", OPTIONS)
def test_padded_equals_shorter(option: str) -> None:
    definition, params, stats = named(option)
    source = random_tokens(0, 2, LENGTH)
    mask = jnp.broadcast_to(jnp.arange(LENGTH) < 4, (2, LENGTH))
    padded, _ = encode(definition, params, stats, source, source_mask=mask)
    alone, none = encode(definition, params, stats, source[:, :4])
    assert none is None
    np.testing.assert_allclose(padded[:, :4], alone, rtol=1e-4, atol=1e-5)


@given(st.permutations(range(LENGTH)))
def test_without_positions_tokens_are_a_set(order: list[int]) -> None:
    definition, params, stats = named("none")
    source, order = random_tokens(1, 2, LENGTH), jnp.asarray(order)
    want = encode(definition, params, stats, source)[0][:, order]
    np.testing.assert_allclose(
        encode(definition, params, stats, source[:, order])[0], want, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "none"])
def test_with_positions_they_are_not(option: str) -> None:
    definition, params, stats = named(option)
    source = jnp.asarray([[1, 2, 3, 4, 5, 6]], jnp.int32)
    want = encode(definition, params, stats, source)[0][:, ::-1]
    assert np.abs(encode(definition, params, stats, source[:, ::-1])[0] - want).max() > 1e-2


def test_relative_positions_tell_both_directions() -> None:
    """In one block a token hears in which order the others stand, those behind it too."""
    config = replace(CONFIG, positions="relative", transformer=replace(T, depth=1))
    definition, params, stats = model(config)
    source = jnp.asarray([[1, 2, 3, 4, 5, 6]], jnp.int32)
    vectors = encode(definition, params, stats, source)[0][0]
    for swapped, hears in (([0, 1, 2, 5, 4, 3], 0), ([2, 1, 0, 3, 4, 5], 5)):
        other = encode(definition, params, stats, source[:, jnp.asarray(swapped)])[0][0]
        assert np.abs(other[hears] - vectors[hears]).max() > 1e-3


def test_against_numpy() -> None:
    """The encoder of Vaswani et al.: scaled embeddings plus sinusoids, post-norm blocks, no norm at the end."""
    definition, params, stats = named("Vaswani")
    assert "norm" not in params
    source = random_tokens(0, 2, LENGTH)
    x = np.asarray(params["embedding"]["tokens"]["embedding"], float)[np.asarray(source)] * np.sqrt(8)
    x = x + np.stack([reference.sinusoid(p, 8) for p in range(LENGTH)])
    for layer in range(2):
        p = jax.tree.map(lambda leaf, i=layer: np.asarray(leaf[i]), params["blocks"])

        def norm(x, name, p=p):
            return reference.layer_norm(x, p[name]["norm"]["scale"], p[name]["norm"]["bias"])

        x = norm(x + reference.multi_head_attention(x, x, p["attention"]), "attention_sublayer")
        x = norm(x + reference.feed_forward(x, p["feed_forward"], "relu"), "feed_forward_sublayer")
    np.testing.assert_allclose(encode(definition, params, stats, source)[0], x, rtol=1e-4, atol=3e-5)


def test_batch_norm_statistics_and_dropout() -> None:
    config = replace(CONFIG, transformer=replace(T, norm="batch", dropout=0.5))
    definition, params, stats = model(config)
    source = random_tokens(0, 2, LENGTH)
    assert set(stats) == {"blocks", "norm"}
    with pytest.raises(ValueError, match="needs a key"):
        encode(definition, params, stats, source, train=True)
    calm = encode(definition, params, stats, source)[0]
    loud = encode(definition, params, stats, source, train=True, key=jax.random.key(0, impl="rbg"))[0]
    assert np.abs(calm - loud).max() > 1e-2


def test_gradients_and_errors() -> None:
    definition, params, _ = model(replace(CONFIG, positions="relative", transformer=replace(T, depth=1)))
    source, mask = random_tokens(0, 1, 4), jnp.asarray([[True, True, True, False]])

    def vectors(params):
        out, _ = functional.merge(definition, params).encode(source, source_mask=mask, train=False)
        return out[:, :3]

    gradients_match(vectors, params)
    definition, params, stats = named("learned, concatenated")
    with pytest.raises(ValueError, match="7 tokens are beyond the 6 learned positions"):
        encode(definition, params, stats, random_tokens(0, 1, 7))
