from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn.trees import gradients_match, normal, parts
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig

B, K, V, LENGTH = 2, 3, 11, 5
T = TransformerConfig(width=8, depth=2, num_heads=2, feed_forward_width=12)
DECODER = DecoderConfig(T, vocabulary_size=V, max_length=LENGTH)
CONFIGS = {
    "image": EncoderDecoderConfig(
        # a width of its own: the cross-attention takes keys and values from vectors of another size
        VisionTransformerConfig(replace(T, width=12), (8, 12), (4, 4), pooling="none", class_token=True),
        DECODER,
    ),
    "text": EncoderDecoderConfig(
        TextEncoderConfig(replace(T, norm_position="post"), vocabulary_size=V, max_length=6),
        replace(DECODER, positions="sinusoidal", tie_embeddings=True),
    ),
}


@cache
def model(kind: str, depth: int = 2) -> tuple[Any, Any, Any]:
    config = CONFIGS[kind]
    if depth != 2:
        config = replace(
            config,
            encoder=replace(config.encoder, transformer=replace(config.encoder.transformer, depth=depth)),
            decoder=replace(config.decoder, transformer=replace(config.decoder.transformer, depth=depth)),
        )
    return parts(lambda rngs: config.build(rngs=rngs))


@partial(jax.jit, static_argnums=0, static_argnames="train")
def logits(definition, params, stats, source, tokens, *, source_mask=None, train=False, key=None):
    module = functional.merge(definition, params, stats)
    return module(source, tokens, source_mask=source_mask, train=train, key=key)


def random_tokens(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


def source_of(kind: str, rows: int = B) -> jax.Array:
    return normal(rows, 8, 12, 3) if kind == "image" else random_tokens(3, rows, 6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_call_is_encode_then_decode(kind: str) -> None:
    definition, params, stats = model(kind)
    source, tokens = source_of(kind), random_tokens(0, B, LENGTH)
    whole = logits(definition, params, stats, source, tokens)
    assert whole.shape == (B, LENGTH, V) and whole.dtype == jnp.float32

    @jax.jit
    def apart(params, source, tokens):
        module = functional.merge(definition, params, stats)
        encoded = module.encode(source, train=False)
        return encoded, module.decode(encoded, tokens, train=False, return_attention=True)

    encoded, out = apart(params, source, tokens)
    np.testing.assert_allclose(out.logits, whole, rtol=1e-5, atol=1e-6)
    count, width = (7, 12) if kind == "image" else (6, 8)
    assert encoded.tokens.shape == (B, count, width) and encoded.mask is None
    assert out.attention.shape == (2, B, 2, LENGTH, count)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("padded", [True, False])
def test_generation_protocol_equals_teacher_forcing(kind: str, padded: bool) -> None:
    """One prefill and two steps of three beams, against the whole model on each history."""
    definition, params, stats = model(kind)
    source, prompt = source_of(kind), random_tokens(0, B, 2)
    mask = jnp.asarray([[1] * 6, [1, 1, 1, 0, 0, 0]], bool) if padded and kind == "text" else None
    first, second = random_tokens(1, B, K), random_tokens(2, B, K)
    parents = jnp.asarray([[2, 2, 0], [1, 0, 1]])

    @jax.jit
    def generate(params, prompt, first, second):
        module = functional.merge(definition, params, stats)
        encoded = module.encode(source, source_mask=mask, train=False)
        cache = module.init_cache(encoded, num_beams=K, max_length=LENGTH)
        a, cache = module.prefill(cache, prompt)
        b, cache = module.step(cache, first)
        c, cache = module.step(cache.reorder(parents), second)
        return a, b, c, cache.position

    a, b, c, position = generate(params, prompt, first, second)
    assert position == 4
    taken = jnp.take_along_axis(first, parents, axis=1)
    for beam in range(K):
        history = jnp.concatenate([prompt, taken[:, beam : beam + 1], second[:, beam : beam + 1]], axis=1)
        want = logits(definition, params, stats, source, history, source_mask=mask)
        np.testing.assert_allclose(a, want[:, 1], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(c[:, beam], want[:, 3], rtol=1e-4, atol=2e-5)
        for row in range(B):
            np.testing.assert_allclose(b[row, parents[row, beam]], want[row, 2], rtol=1e-4, atol=2e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 99), length=st.integers(1, 5))
def test_source_padding_is_never_seen(seed: int, length: int) -> None:
    definition, params, stats = model("text")
    source, tokens = random_tokens(seed, B, 6), random_tokens(seed + 1, B, LENGTH)
    mask = jnp.arange(6)[None] < jnp.asarray([[6], [length]])
    other = jnp.where(mask, source, (source + 1) % V)
    want, got = (logits(definition, params, stats, s, tokens, source_mask=mask) for s in (source, other))
    np.testing.assert_array_equal(got, want)
    # and a row does not depend on how its neighbours are padded
    alone = logits(definition, params, stats, source, tokens, source_mask=jnp.ones((B, 6), bool))
    np.testing.assert_allclose(want[0], alone[0], rtol=1e-5, atol=1e-6)


def test_padded_source_equals_a_shorter_one() -> None:
    definition, params, stats = model("text")
    source, tokens = random_tokens(0, B, 6), random_tokens(1, B, LENGTH)
    mask = jnp.broadcast_to(jnp.arange(6) < 4, (B, 6))
    np.testing.assert_allclose(
        logits(definition, params, stats, source, tokens, source_mask=mask),
        logits(definition, params, stats, source[:, :4], tokens),
        rtol=1e-4,
        atol=2e-5,
    )


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=10)
@given(order=st.permutations(range(4)))
def test_batch_permutation(kind: str, order: list[int]) -> None:
    definition, params, stats = model(kind)
    source, tokens, rows = source_of(kind, 4), random_tokens(1, 4, LENGTH), jnp.asarray(order)
    np.testing.assert_allclose(
        logits(definition, params, stats, source[rows], tokens[rows]),
        logits(definition, params, stats, source, tokens)[rows],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=10)
@given(at=st.integers(1, LENGTH - 1), seed=st.integers(0, 99))
def test_causality_is_exact(kind: str, at: int, seed: int) -> None:
    definition, params, stats = model(kind)
    tokens = random_tokens(seed, B, LENGTH)
    other = tokens.at[:, at].set((tokens[:, at] + 1) % V)
    before, after = (
        np.asarray(logits(definition, params, stats, source_of(kind), t)) for t in (tokens, other)
    )
    np.testing.assert_array_equal(before[:, :at], after[:, :at])
    assert (before[:, at:] != after[:, at:]).any(-1).all()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_source_matters_and_every_parameter_learns(kind: str) -> None:
    definition, params, stats = model(kind)
    tokens = random_tokens(0, B, LENGTH)
    source = source_of(kind)
    out = logits(definition, params, stats, source, tokens)
    assert np.abs(out - logits(definition, params, stats, source[::-1], tokens)).max() > 1e-3

    @jax.jit
    def gradients(params):
        return jax.grad(
            lambda p: jnp.mean(
                jax.nn.logsumexp(functional.merge(definition, p, stats)(source, tokens, train=True), -1)
            )
        )(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(params)):
        name = jax.tree_util.keystr(path)
        inert = "['key']['bias']" in name  # a constant added to all keys changes no softmax
        assert np.isfinite(leaf).all() and (inert or np.abs(leaf).max() > 0), name


def test_dropout_in_encoder_and_decoder_have_keys_of_their_own() -> None:
    drops = replace(T, dropout=0.3)
    config = EncoderDecoderConfig(
        VisionTransformerConfig(drops, (8, 12), (4, 4), pooling="none"), replace(DECODER, transformer=drops)
    )
    definition, params, stats = parts(lambda rngs: config.build(rngs=rngs))
    source, tokens = source_of("image"), random_tokens(0, B, LENGTH)
    with pytest.raises(ValueError, match="needs a key"):
        logits(definition, params, stats, source, tokens, train=True)
    calm = logits(definition, params, stats, source, tokens)
    a, again, b = (
        logits(definition, params, stats, source, tokens, train=True, key=jax.random.key(k, impl="rbg"))
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 1e-3 and np.abs(a - calm).max() > 1e-3


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradients(kind: str) -> None:
    definition, params, stats = model(kind, depth=1)
    source, tokens = source_of(kind, 1), random_tokens(0, 1, 3)
    gradients_match(
        lambda params: functional.merge(definition, params, stats)(source, tokens, train=False), params
    )


def test_one_definition_for_one_config() -> None:
    for kind, config in CONFIGS.items():
        same = replace(config, decoder=replace(config.decoder))
        definition = functional.abstract(lambda rngs, c=same: c.build(rngs=rngs))[0]
        assert definition == model(kind)[0] and hash(definition) == hash(model(kind)[0])


def test_one_table_of_token_vectors_is_two_alike() -> None:
    apart = replace(CONFIGS["text"], encoder=replace(CONFIGS["text"].encoder, positions="none"))
    shared = replace(apart, share_embeddings=True)
    definition, params, stats = parts(lambda rngs: shared.build(rngs=rngs))
    assert "embedding" not in params["encoder"]
    copied = params["encoder"] | {"embedding": {"tokens": params["decoder"]["embedding"]["tokens"]}}
    two = functional.abstract(lambda rngs: apart.build(rngs=rngs))[0]
    source, tokens = source_of("text"), random_tokens(0, B, LENGTH)
    got = logits(definition, params, stats, source, tokens)
    want = logits(two, params | {"encoder": copied}, stats, source, tokens)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_one_table_of_token_vectors_needs_two_texts_of_one_vocabulary() -> None:
    with pytest.raises(ValueError, match="needs an encoder of text"):
        replace(CONFIGS["image"], share_embeddings=True)
    smaller = replace(CONFIGS["text"].encoder, vocabulary_size=V - 1)
    with pytest.raises(ValueError, match=r"the encoder's is \(10, 8\), the decoder's \(11, 8\)"):
        replace(CONFIGS["text"], encoder=smaller, share_embeddings=True)
