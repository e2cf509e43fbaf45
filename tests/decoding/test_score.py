"""Texts are as likely as generation says; in parallel, as the source alone says."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding.test_models import CONFIGS, IMAGES, MODELS, ROWS, VOCABULARY, case, decoder
from tests.nn.trees import parts
from vitjax.decoding import generate, score
from vitjax.decoding.score import _score
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.functional import merge

LENGTH = 9
PARALLEL = EncoderDecoderConfig(IMAGES, decoder("learned", parallel_prediction=True))


@functools.cache
def model(name):
    config = PARALLEL if name == "image parallel" else MODELS[name]
    return parts(lambda rngs: config.build(rngs=rngs), scale=0.5)[:2]


def texts(count, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, VOCABULARY, (ROWS, count, LENGTH)).astype(np.int32)


@pytest.mark.parametrize(
    ("name", "padded"), [("image learned", False), ("text rotary", True), ("image lstm", True)]
)
def test_what_was_generated_is_as_likely_as_generation_said(name, padded):
    definition, params = model(name)
    given = case(name, 0)
    # a minimum length would take EOS away from generation's probabilities, and from no text's
    config = replace(CONFIGS["beam"], min_length=0, decoder_start_token_id=1, eos_token_id=(2, 3, 8))
    prompt = {"prompt": given.prompt, "prompt_mask": given.prompt_mask} if padded else {}
    out = generate(definition, params, given.source, source_mask=given.source_mask, config=config, **prompt)
    assert len(set(np.asarray(out.lengths).ravel())) > 2
    scores = score(
        definition,
        params,
        given.source,
        out.tokens,
        source_mask=given.source_mask,
        token_mask=np.arange(out.tokens.shape[2]) < out.lengths[:, :, None],
        prompt_mask=given.prompt_mask if padded else None,
    )
    np.testing.assert_allclose(scores.token_log_probs, out.token_log_probs, atol=1e-5)
    lengths = out.lengths - (3 if padded else 1)
    np.testing.assert_allclose(scores.log_probs / lengths, out.scores, atol=1e-5)


@pytest.mark.parametrize("name", ["image parallel", "image lstm"])
def test_texts_do_not_see_each_other(name):
    """Five at once, two at a time, in another order: the same; and a later call compiles nothing."""
    definition, params = model(name)
    source, tokens = case(name, 0).source, texts(5)
    whole = score(definition, params, source, tokens)
    programs = _score._cache_size()
    turned = score(definition, params, source, tokens[:, ::-1])
    assert _score._cache_size() == programs
    np.testing.assert_allclose(turned.token_log_probs[:, ::-1], whole.token_log_probs, atol=1e-5)
    two = score(definition, params, source, tokens, texts_at_once=2)
    np.testing.assert_allclose(two.token_log_probs, whole.token_log_probs, atol=1e-5)
    assert not whole.token_log_probs[:, :, 0].any()
    assert (np.asarray(whole.token_log_probs[:, :, 1:]) < 0).all()
    np.testing.assert_allclose(whole.log_probs, whole.token_log_probs.sum(-1), atol=1e-5)


def test_parallel_scores_are_those_of_parallel_logits():
    definition, params = model("image parallel")
    source, tokens = case("image", 0).source, texts(5)
    scores = score(definition, params, source, tokens, mode="parallel")

    @jax.jit
    def by_hand(params):
        whole = merge(definition, params)
        nothing = jnp.zeros((ROWS, PARALLEL.decoder.max_length - 1), jnp.int32)
        return whole(source, nothing, parallel=True, train=False)

    logits = np.asarray(jax.nn.log_softmax(by_hand(params)))
    for t in range(1, LENGTH):
        want = np.take_along_axis(logits[:, t - 1], tokens[:, :, t], axis=-1)
        np.testing.assert_allclose(scores.token_log_probs[:, :, t], want, atol=1e-5)
    forced = score(definition, params, source, tokens)
    assert np.abs(forced.token_log_probs - scores.token_log_probs).max() > 0.1
    # one token's score knows nothing of the others, nor of how long the text is
    other = np.concatenate([texts(5, seed=1)[..., :4], tokens[..., 4:6]], axis=-1)
    short = score(definition, params, source, other, mode="parallel")
    np.testing.assert_allclose(
        short.token_log_probs[..., 4:], scores.token_log_probs[..., 4:6], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["parallel", "autoregressive"])
def test_a_mask_leaves_tokens_out(mode):
    """What is left out may be any id at all, where it stands behind the text."""
    definition, params = model("image parallel")
    source, tokens = case("image", 0).source, texts(5)
    mask = np.arange(LENGTH) < np.random.default_rng(0).integers(2, LENGTH, (ROWS, 5, 1))
    whole = score(definition, params, source, tokens, mode=mode)
    want = np.where(mask, whole.token_log_probs, 0)
    got = score(definition, params, source, np.where(mask, tokens, -1), mode=mode, token_mask=mask)
    np.testing.assert_allclose(got.token_log_probs, want, atol=1e-6)
    np.testing.assert_allclose(got.log_probs, want.sum(-1), atol=1e-5)


def test_the_source_is_encoded_once():
    """In parallel, more texts cost a lookup each; one by one, a pass of the decoder but no second encoder."""
    definition, params = model("image parallel")
    source = jnp.zeros((ROWS, 8, 8, 1))

    def flops(mode, count):
        tokens = jnp.zeros((ROWS, count, LENGTH), jnp.int32)
        arguments = (definition, mode, None, params, {}, source, None, tokens, None, None)
        return _score.lower(*arguments).compile().cost_analysis()["flops"]

    encoder = jax.jit(lambda p: merge(definition, p).encode(source, train=False).tokens)
    encoding = encoder.lower(params).compile().cost_analysis()["flops"]
    assert flops("parallel", 16) < 1.05 * flops("parallel", 1)
    one, many = flops("autoregressive", 1), flops("autoregressive", 16)
    assert 4 * one < many < 16 * (one - encoding) + encoding


def test_errors_teach():
    definition, params = model("image parallel")
    source, tokens = case("image", 0).source, texts(2)
    fails = functools.partial(score, definition, params, source, tokens)
    # TypeError under the tests' own type checker
    with pytest.raises((ValueError, TypeError), match="(?s)mode.*causal.*autoregressive"):
        fails(mode="causal")
    with pytest.raises(ValueError, match=r"source has 4 rows and tokens \[2, 2, 9\]"):
        score(definition, params, source, tokens[:2])
    with pytest.raises((ValueError, TypeError), match="token_mask"):
        fails(token_mask=np.ones((4, 2, 8), bool))
    with pytest.raises(ValueError, match=r"prompt_mask is \(4, 9\): expected \[4, P\] with P from 1 to 8"):
        fails(prompt_mask=np.ones((4, 9), bool))
    with pytest.raises(ValueError, match="put the decoder's start token before them"):
        score(definition, params, source, tokens[:, :, :1])
    with pytest.raises(ValueError, match="parallel prediction reads no prompt"):
        fails(mode="parallel", prompt_mask=np.ones((4, 2), bool))
    with pytest.raises(ValueError, match="texts_at_once=0"):
        fails(texts_at_once=0)
    with pytest.raises(ValueError, match="ShowAttendTell cannot predict in parallel"):
        score(*model("image lstm"), source, tokens, mode="parallel")
    with pytest.raises(ValueError, match="no mask token to predict in parallel from"):
        score(*model("image learned"), source, tokens, mode="parallel")
    with pytest.raises(ValueError, match="VisionTransformer cannot score texts"):
        vit = replace(IMAGES, pooling="mean", num_classes=3)
        assert isinstance(vit, VisionTransformerConfig)
        score(*parts(lambda rngs: vit.build(rngs=rngs))[:2], source, tokens)
