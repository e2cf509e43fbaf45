from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, normal, parts
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import generate
from vitjax.models.encoder_decoder import Encoded
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig

B, K, T, S, D, V, W, E, A = 3, 4, 6, 16, 3, 11, 5, 4, 7
CONFIG = ShowAttendTellConfig(
    ResNetConfig((1,), (D,), stem="small", channels=1),
    vocabulary_size=V,
    width=W,
    embedding_width=E,
    attention_width=A,
)
DEFINITION, PARAMS, STATS = parts(lambda rngs: CONFIG.build(rngs=rngs), scale=0.6)
IMAGES = normal(B, 4, 4, 1)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
ENCODED = Encoded(normal(B, S, D), None)


def model(params=PARAMS, definition=DEFINITION):
    return functional.merge(definition, params, STATS)


@jax.jit
def decode(params, encoded, tokens, mask=None):
    return model(params).decode(encoded, tokens, decoder_mask=mask, train=False, return_attention=True)


@partial(jax.jit, static_argnames=("num_beams", "max_length"))
def init_cache(params, encoded, *, num_beams, max_length):
    return model(params).init_cache(encoded, num_beams=num_beams, max_length=max_length)


@jax.jit
def prefill(params, cache, prompt, mask=None):
    return model(params).prefill(cache, prompt, mask)


@jax.jit
def step(params, cache, tokens):
    return model(params).step(cache, tokens)


def test_decoder_is_the_formula():
    """Xu et al. (2015), section 3.1.2 and 4.2, one step after the other."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), PARAMS)
    features = np.asarray(ENCODED.tokens, float)
    logits, attention = decode(PARAMS, ENCODED, TOKENS)
    assert logits.shape == (B, T, V) and attention.shape == (1, B, 1, T, S)

    mean = features.mean(1)
    h = np.tanh(reference.linear(mean, params["initial_hidden"]))
    c = np.tanh(reference.linear(mean, params["initial_cell"]))
    key = features @ params["key"]["kernel"][:, 0] + params["key"]["bias"]  # [B, S, A]
    for t in range(T):
        query = h @ params["query"]["kernel"][:, 0] + params["query"]["bias"]
        alpha = reference.softmax(np.tanh(key + query[:, None]) @ params["score_kernel"][0])  # [B, S]
        np.testing.assert_allclose(attention[0, :, 0, t], alpha, rtol=1e-4, atol=1e-6)
        beta = reference.sigmoid(reference.linear(h, params["beta"]))
        z = beta * np.einsum("bs,bsd->bd", alpha, features)
        y = params["embedding"]["embedding"][np.asarray(TOKENS[:, t])]
        gates = reference.linear(y, params["cell"]["input"]) + reference.linear(h, params["cell"]["hidden"])
        i, f, g, o = np.split(gates + reference.linear(z, params["cell_context"]), 4, axis=-1)
        c = reference.sigmoid(f) * c + reference.sigmoid(i) * np.tanh(g)
        h = reference.sigmoid(o) * np.tanh(c)
        deep = (
            y + reference.linear(h, params["output_hidden"]) + reference.linear(z, params["output_context"])
        )
        want = reference.linear(np.tanh(deep), params["head"])
        np.testing.assert_allclose(logits[:, t], want, rtol=1e-4, atol=1e-5)


def test_attention_and_beta_matter():
    """A guard for the tests below: other features give other logits, and attention is not uniform."""
    logits, attention = decode(PARAMS, ENCODED, TOKENS)
    other, _ = decode(PARAMS, Encoded(ENCODED.tokens[:, ::-1] * 2, None), TOKENS)
    assert np.abs(logits - other).max() > 0.1
    assert attention.max() > 1.5 / S and attention.std(axis=3).max() > 1e-3


@pytest.mark.parametrize("prompt_length", [1, 3])
def test_cached_steps_equal_the_teacher_forced_pass(prompt_length):
    want, _ = decode(PARAMS, ENCODED, TOKENS)
    cache = init_cache(PARAMS, ENCODED, num_beams=1, max_length=T)
    logits, cache = prefill(PARAMS, cache, TOKENS[:, :prompt_length])
    np.testing.assert_allclose(logits, want[:, prompt_length - 1], atol=1e-5)
    for t in range(prompt_length, T):
        assert int(cache.position) == t
        logits, cache = step(PARAMS, cache, TOKENS[:, t, None])
        np.testing.assert_allclose(logits[:, 0], want[:, t], atol=1e-5)


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, T), min_size=B, max_size=B),
    padding=st.integers(0, V - 1),
)
def test_left_padding_of_the_prompt_leaves_the_state_untouched(lengths, padding):
    mask = np.arange(T) >= T - np.array(lengths)[:, None]
    prompt = np.where(mask, np.asarray(TOKENS), padding)
    cache = init_cache(PARAMS, ENCODED, num_beams=2, max_length=T + 1)
    logits, cache = prefill(PARAMS, cache, jnp.asarray(prompt), jnp.asarray(mask))
    after, _ = step(PARAMS, cache, jnp.tile(jnp.arange(B, dtype=jnp.int32)[:, None], (1, 2)))
    masked, _ = decode(PARAMS, ENCODED, jnp.asarray(prompt), jnp.asarray(mask))
    np.testing.assert_allclose(masked[:, -1], logits, atol=1e-5)
    for b, length in enumerate(lengths):
        row = Encoded(ENCODED.tokens[b : b + 1], None)
        # right padding to one length, so that all examples share one program
        tokens = jnp.concatenate([TOKENS[b, T - length :], jnp.int32([b]), jnp.zeros(T - length, jnp.int32)])
        want = decode(PARAMS, row, tokens[None]).logits[0]
        np.testing.assert_allclose(logits[b], want[length - 1], atol=1e-5)
        np.testing.assert_allclose(after[b], jnp.stack([want[length]] * 2), atol=1e-5)


def test_reordered_beams_go_on_from_their_parents():
    rng = np.random.default_rng(3)
    history = np.repeat(np.asarray(TOKENS[:, None, :2]), K, axis=1)  # [B, K, t]
    cache = init_cache(PARAMS, ENCODED, num_beams=K, max_length=T)
    _, cache = prefill(PARAMS, cache, TOKENS[:, :2])
    for t in range(2, T):
        parents = rng.integers(0, K, (B, K))
        cache = jax.jit(lambda cache, parents: cache.reorder(parents))(cache, jnp.asarray(parents, jnp.int32))
        tokens = rng.integers(0, V, (B, K))
        history = np.concatenate([np.take_along_axis(history, parents[:, :, None], 1), tokens[:, :, None]], 2)
        logits, cache = step(PARAMS, cache, jnp.asarray(tokens, jnp.int32))
        padded = np.pad(history, [(0, 0), (0, 0), (0, T - 1 - t)])
        for k in range(K):
            want = decode(PARAMS, ENCODED, jnp.asarray(padded[:, k], jnp.int32)).logits[:, t]
            np.testing.assert_allclose(logits[:, k], want, atol=1e-5)


def test_features_are_projected_once_and_shared_by_beams():
    cache = init_cache(PARAMS, ENCODED, num_beams=K, max_length=T)
    assert cache.context.values.shape == (B, S, D) and cache.context.keys.shape == (B, S, 1, A)
    assert cache.state.hidden.shape == cache.state.cell.shape == (B, K, W)
    moved = cache.reorder(jnp.zeros((B, K), jnp.int32))
    assert moved.context is cache.context


def test_masked_features_count_for_nothing():
    mask = jnp.arange(S) < jnp.asarray([S, 5, 1])[:, None]
    logits, attention = decode(PARAMS, Encoded(ENCODED.tokens, mask), TOKENS)
    noise = jnp.where(mask[:, :, None], ENCODED.tokens, 100.0)
    other, _ = decode(PARAMS, Encoded(noise, mask), TOKENS)
    np.testing.assert_array_equal(logits, other)
    assert attention[0, 1, 0, :, 5:].max() == 0
    short, _ = decode(PARAMS, Encoded(ENCODED.tokens[1:2, :5], None), TOKENS[1:2])
    np.testing.assert_allclose(logits[1:2], short, atol=1e-5)


def test_decoder_does_not_look_ahead():
    want, _ = decode(PARAMS, ENCODED, TOKENS)
    got, _ = decode(PARAMS, ENCODED, TOKENS.at[:, 3:].set(0))
    np.testing.assert_array_equal(got[:, :3], want[:, :3])
    assert np.abs(got[:, 3] - want[:, 3]).max() > 1e-3


def test_gradients():
    decoder = {name: leaf for name, leaf in PARAMS.items() if name != "encoder"}
    mask = jnp.arange(T) >= jnp.asarray([0, 2, 1])[:, None]

    def run(decoder, features):
        params = {**decoder, "encoder": PARAMS["encoder"]}
        return decode(params, Encoded(features, None), TOKENS, mask).logits

    gradients_match(run, decoder, ENCODED.tokens, eps=3e-3)


def test_whole_model_trains_and_moves_the_statistics_of_its_encoder():
    definition = replace_dropout(0.2)

    @jax.jit
    def gradient(params, key):
        def loss(params):
            m = model(params, definition)
            logits = m(IMAGES, TOKENS, train=True, key=key)
            return jnp.mean(logits**2), functional.stats_of(m)

        return jax.grad(loss, has_aux=True)(params)

    grads, stats = gradient(PARAMS, jax.random.key(0))
    assert all(jnp.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), STATS, stats)
    assert set(moved) == {"encoder"} and all(jax.tree.leaves(moved))
    other, _ = gradient(PARAMS, jax.random.key(1))
    assert np.abs(grads["head"]["kernel"] - other["head"]["kernel"]).max() > 1e-5


def replace_dropout(rate):
    return functional.abstract(lambda rngs: replace(CONFIG, dropout=rate).build(rngs=rngs))[0]


def test_dropout_needs_a_key_in_train_mode_only():
    m = model(definition=replace_dropout(0.5))
    with pytest.raises(ValueError, match="needs a key"):
        m.decode(ENCODED, TOKENS, train=True)
    out = jax.jit(lambda: m.decode(ENCODED, TOKENS, train=False))()
    np.testing.assert_allclose(out.logits, decode(PARAMS, ENCODED, TOKENS).logits, atol=1e-6)
    assert out.attention is None


def test_bfloat16_gives_float32_logits_and_memory():
    definition, *_ = functional.abstract(lambda rngs: replace(CONFIG, dtype="bfloat16").build(rngs=rngs))
    m = model(definition=definition)
    logits, attention = jax.jit(lambda: m.decode(ENCODED, TOKENS, train=False, return_attention=True))()
    assert logits.dtype == attention.dtype == jnp.float32
    np.testing.assert_allclose(logits, decode(PARAMS, ENCODED, TOKENS).logits, atol=0.15)
    cache = m.init_cache(ENCODED, num_beams=2, max_length=T)
    assert cache.state.cell.dtype == jnp.float32 and cache.state.hidden.dtype == jnp.bfloat16
    cached, after = jax.jit(m.prefill)(cache, TOKENS)
    np.testing.assert_allclose(cached, logits[:, -1], atol=0.05)
    assert jax.tree.map(jax.typeof, jax.tree.leaves(after)) == jax.tree.map(
        jax.typeof, jax.tree.leaves(cache)
    )


def test_a_vision_transformer_can_be_the_encoder():
    encoder = VisionTransformerConfig(
        TransformerConfig(8, 1, 2, 16), (4, 8), (2, 2), channels=1, class_token=True, pooling="none"
    )
    definition, params, stats = parts(lambda rngs: replace(CONFIG, encoder=encoder).build(rngs=rngs))
    assert stats == {}

    @jax.jit
    def run(params, images, tokens):
        m = functional.merge(definition, params)
        encoded = m.encode(images, train=False)
        logits, attention = m.decode(encoded, tokens, train=False, return_attention=True)
        return logits, attention, m(images, tokens, train=False)

    logits, attention, same = run(params, normal(B, 4, 8, 1), TOKENS)
    assert attention.shape == (1, B, 1, T, 9)
    np.testing.assert_allclose(logits, same, rtol=1e-5, atol=1e-6)


def test_generates_greedily_what_it_scores_highest():
    config = GenerationConfig(max_length=T, decoder_start_token_id=1)
    out = generate(DEFINITION, PARAMS, IMAGES, stats=STATS, config=config)
    encoded = jax.jit(lambda x: model().encode(x, train=False))(IMAGES)
    best = decode(PARAMS, encoded, out.tokens[:, 0]).logits.argmax(-1)
    np.testing.assert_array_equal(out.tokens[:, 0, 1:], best[:, :-1])


def test_beams_find_the_best_of_all_sequences():
    """With as many beams as prefixes, beam search must find the best of all V**2 continuations."""
    config = GenerationConfig(max_length=3, decoder_start_token_id=1, num_beams=V, length_penalty=0.0)
    out = generate(DEFINITION, PARAMS, IMAGES, stats=STATS, config=config)
    encoded = jax.jit(lambda x: model().encode(x, train=False))(IMAGES)
    start = jnp.full((B, 1), config.start_id, jnp.int32)
    first = jax.nn.log_softmax(decode(PARAMS, encoded, start).logits[:, 0])
    scores = np.empty((B, V, V))
    for token in range(V):
        prefix = jnp.concatenate([start, jnp.full((B, 1), token, jnp.int32)], axis=1)
        second = jax.nn.log_softmax(decode(PARAMS, encoded, prefix).logits[:, 1])
        scores[:, token] = first[:, token, None] + second
    best = scores.reshape(B, -1).argmax(-1)
    np.testing.assert_array_equal(out.tokens[:, 0, 1:], np.stack([best // V, best % V], axis=1))
    np.testing.assert_allclose(out.scores[:, 0], scores.reshape(B, -1).max(-1), atol=1e-5)


def test_graph_mode_changes_nothing():
    config = GenerationConfig(max_length=T, decoder_start_token_id=1, num_beams=2)

    def run():
        @jax.jit
        def initial(key):
            return functional.initialize(lambda rngs: CONFIG.build(rngs=rngs), key)

        definition, _, _ = functional.abstract(lambda rngs: CONFIG.build(rngs=rngs))
        params, stats = initial(jax.random.key(0))

        @jax.jit
        def gradient(params):
            def loss(params):
                m = functional.merge(definition, params, stats)
                return jnp.mean(m(IMAGES, TOKENS, train=True) ** 2), functional.stats_of(m)

            return jax.grad(loss, has_aux=True)(params)

        return gradient(params), generate(definition, params, IMAGES, stats=stats, config=config).tokens

    with nnx.set_graph_mode(False):
        trees = run()
    with nnx.set_graph_mode(True):
        graphs = run()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), trees, graphs)
