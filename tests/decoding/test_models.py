"""The real decoders, token by token, say what they say all at once."""

import functools
import math
import re
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.export import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vitjax.decoding import GenerationConfig, beam_search, encode, encode_and_decode, generate, greedy
from vitjax.decoding.generate import _decode
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import abstract, merge

VOCABULARY = 12
ROWS = 4
BLOCKS = TransformerConfig(width=16, depth=1, num_heads=2, feed_forward_width=32)
DEEP = replace(BLOCKS, depth=2)
IMAGES = VisionTransformerConfig(BLOCKS, image_size=(8, 8), patch_size=(4, 4), channels=1, pooling="none")
TEXTS = TextEncoderConfig(BLOCKS, vocabulary_size=VOCABULARY, max_length=8)


def decoder(positions, blocks=BLOCKS, **options):
    return DecoderConfig(blocks, VOCABULARY, max_length=48, positions=positions, **options)


MODELS = {
    "image learned": EncoderDecoderConfig(IMAGES, decoder("learned", DEEP)),
    "text rotary": EncoderDecoderConfig(TEXTS, decoder("rotary", tie_embeddings=True)),
    "text relative": EncoderDecoderConfig(TEXTS, decoder("relative")),
    "image lstm": ShowAttendTellConfig(IMAGES, VOCABULARY, width=16, embedding_width=8, attention_width=8),
}
CONFIGS = {
    "greedy": GenerationConfig(max_length=12, eos_token_id=2, pad_token_id=0),
    "beam": GenerationConfig(
        max_length=12, num_beams=3, num_return_sequences=3, eos_token_id=(2, 3), pad_token_id=0, min_length=7
    ),
}


class Case(NamedTuple):
    source: jax.Array
    source_mask: jax.Array | None
    prompt: jax.Array
    prompt_mask: jax.Array


@functools.cache
def parts(name):
    """A random model whose next tokens depend on all it reads."""
    definition, shapes, _ = abstract(lambda rngs: MODELS[name].build(rngs=rngs))
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape), leaf.dtype), shapes
    )
    return definition, params


def case(name, seed):
    random = np.random.default_rng(seed)
    if "image" in name:
        source, mask = random.standard_normal((ROWS, 8, 8, 1)).astype(np.float32), None
    else:
        source = random.integers(0, VOCABULARY, (ROWS, 6)).astype(np.int32)
        mask = jnp.asarray(np.arange(6)[None] < random.integers(2, 7, (ROWS, 1)))
    prompt = random.integers(1, VOCABULARY, (ROWS, 3)).astype(np.int32)
    real = jnp.asarray(np.arange(3)[None] >= 3 - random.integers(1, 4, (ROWS, 1)))
    return Case(jnp.asarray(source), mask, jnp.asarray(prompt), real)


class Uncached(NamedTuple):
    """Memory of a decoder that forgets everything but the tokens, and moves them with the beams."""

    encoded: tuple
    tokens: jax.Array  # [B, K, T]
    mask: jax.Array  # [B, T]
    position: jax.Array

    def reorder(self, parents):
        return self._replace(tokens=jnp.take_along_axis(self.tokens, parents[:, :, None], axis=1))

    def grow(self, max_length):
        more = ((0, 0), (0, 0), (0, max_length - self.mask.shape[1]))
        return self._replace(
            tokens=jnp.pad(self.tokens, more), mask=jnp.pad(self.mask, more[1:], constant_values=True)
        )


class WithoutCache:
    """Reads the whole sequence again for every token, with the forward pass of training."""

    max_source_length = None
    max_target_length = None

    def __init__(self, model):
        self.model = model

    def encode(self, source, *, source_mask=None, train, key=None):
        return self.model.encode(source, source_mask=source_mask, train=train)

    def prepared(self):
        return self

    def init_cache(self, encoded, *, num_beams, max_length, dtype=None, beam_axis=None):
        rows = encoded.tokens.shape[0]
        empty = jnp.zeros((rows, num_beams, max_length), jnp.int32)
        return Uncached(encoded, empty, jnp.ones((rows, max_length), bool), jnp.int32(0))

    def prefill(self, cache, prompt, prompt_mask=None):
        length = prompt.shape[1]
        cache = cache._replace(
            tokens=cache.tokens.at[:, :, :length].set(prompt[:, None]),
            mask=cache.mask if prompt_mask is None else cache.mask.at[:, :length].set(prompt_mask),
            position=cache.position + length,
        )
        return self._read(cache)[:, 0], cache

    def step(self, cache, tokens):
        written = jax.lax.dynamic_update_slice(cache.tokens, tokens[:, :, None], (0, 0, cache.position))
        cache = cache._replace(tokens=written, position=cache.position + 1)
        return self._read(cache), cache

    def _read(self, cache):
        rows, beams, length = cache.tokens.shape
        encoded = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), cache.encoded)
        logits = self.model.decode(
            encoded,
            cache.tokens.reshape(rows * beams, length),
            decoder_mask=jnp.repeat(cache.mask, beams, axis=0),
            train=False,
        ).logits
        return logits[:, cache.position - 1].reshape(rows, beams, -1)


@functools.cache
def compiled(name, kind, cached):
    definition, _ = parts(name)
    search = greedy if kind == "greedy" else beam_search

    @jax.jit
    def run(params, case):
        model = merge(definition, params)
        model = model if cached else WithoutCache(model)
        encoded = model.encode(case.source, source_mask=case.source_mask, train=False)
        return search(model, encoded, case.prompt, case.prompt_mask, config=CONFIGS[kind])

    return run


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "beam") for name in MODELS), ("image learned", "greedy"), ("image lstm", "greedy")],
)
@settings(max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_cached_is_uncached(name, kind, seed):
    _, params = parts(name)
    given = case(name, seed)
    with_cache = compiled(name, kind, True)(params, given)
    without = compiled(name, kind, False)(params, given)
    np.testing.assert_array_equal(with_cache.tokens, without.tokens)
    np.testing.assert_allclose(with_cache.scores, without.scores, atol=1e-4)
    np.testing.assert_allclose(with_cache.token_log_probs, without.token_log_probs, atol=1e-4)


# 40 tokens: over the border of two chunks
@pytest.mark.parametrize(
    ("name", "length"), [(name, 40 if name == "image learned" else 12) for name in MODELS]
)
def test_log_probs_are_those_of_teacher_forcing(name, length):
    definition, params = parts(name)
    given = case(name, 0)
    config = replace(CONFIGS["beam"], max_length=length, min_length=length - 5)
    out = generate(
        definition,
        params,
        given.source,
        source_mask=given.source_mask,
        prompt=given.prompt,
        prompt_mask=given.prompt_mask,
        config=config,
    )
    assert out.tokens.shape == (ROWS, 3, length)
    assert len({tuple(row) for row in out.tokens.reshape(-1, length).tolist()}) > ROWS

    @jax.jit
    def score(params, tokens):
        model = merge(definition, params)
        encoded = model.encode(given.source, source_mask=given.source_mask, train=False)
        encoded = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), encoded)
        real = jnp.ones((ROWS, length), bool).at[:, :3].set(given.prompt_mask)
        real = jnp.repeat(real, 3, axis=0)
        tokens = tokens.reshape(-1, length)
        logits = model.decode(encoded, tokens[:, :-1], decoder_mask=real[:, :-1], train=False).logits
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
        return log_probs.reshape(ROWS, 3, length - 1)

    place = jnp.arange(1, length)
    generated = (place >= 3) & (place < out.lengths[:, :, None])
    expected = jnp.where(generated, score(params, out.tokens), 0)
    np.testing.assert_allclose(out.token_log_probs[:, :, 1:], expected, atol=1e-4)
    assert not out.token_log_probs[:, :, 0].any()


@pytest.mark.parametrize("kind", CONFIGS)
def test_devices_that_share_a_batch_say_no_more_than_whether_they_are_done(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    definition, params = parts("image learned")
    config = replace(CONFIGS[kind], decoder_start_token_id=1)
    rows = 16
    source = np.zeros((rows, 8, 8, 1), np.float32)
    source = jax.device_put(source, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    encoded = encode(definition, params, source)
    assert encoded.tokens.sharding.shard_shape(encoded.tokens.shape)[0] == rows // 8
    numbers = np.array([0, 1, 20, rows])
    program = _decode.lower(definition, config, 20, None, False, params, {}, encoded, None, None, numbers)
    program = program.compile().as_text()
    moved = re.findall(r"= \w+\[([\d,]*)\]\S* (?:all-\w+|collective-\w+|reduce-scatter)\(", program)
    assert {math.prod(int(n) for n in shape.split(",") if n) for shape in moved} == {1}


@pytest.mark.parametrize("name", ["image learned", "image lstm"])
def test_one_program_can_be_exported(name):
    definition, params = parts(name)
    config = replace(CONFIGS["beam"], decoder_start_token_id=1)
    images = np.random.default_rng(0).standard_normal((ROWS, 8, 8, 1)).astype(np.float32)
    whole = jax.jit(lambda p, x: vars(encode_and_decode(merge(definition, p), x, config=config)))
    exported = export(whole, platforms=["cpu", "cuda", "tpu"])(params, images)
    out = generate(definition, params, images, config=config)
    np.testing.assert_array_equal(exported.call(params, images)["tokens"], out.tokens)
