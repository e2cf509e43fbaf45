"""Sampling: draws follow the distribution, and depend on key and row alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.decoding.decoders import DECODERS, SlotDecoder, make_table, next_state
from tests.decoding.test_generate import compilations
from tests.decoding.test_models import case, parts
from vitjax.decoding import GenerationConfig, encode_and_decode, generate, greedy, sample
from vitjax.decoding.sample import row_keys
from vitjax.decoding.warpers import Warpers, warp
from vitjax.nn.functional import merge, split

STOPS = (2, 4)
TABLE = make_table(3, 10, stops=STOPS, bias=0.5)
CONFIG = GenerationConfig(
    do_sample=True,
    max_new_tokens=9,
    top_p=0.9,
    temperature=1.2,
    num_return_sequences=3,
    eos_token_id=STOPS,
    pad_token_id=0,
    decoder_start_token_id=1,
)
KEY = jax.random.key(0)


def sources(rows=8):
    return np.arange(rows, dtype=np.int32)[:, None]


def run(rows=8, *, key=KEY, kind="slots", **options):
    given = {name: options.pop(name) for name in ("prompt", "prompt_mask", "batch_size") if name in options}
    definition, params, _ = split(DECODERS[kind](TABLE))
    return generate(definition, params, sources(rows), config=replace(CONFIG, **options), key=key, **given)


def states(tokens, start):
    """The state before each token of [N, T], from the state before the first."""
    found = [np.full(len(tokens), start)]
    for column in tokens.T:
        found.append(next_state(found[-1], column))
    return np.stack(found[:-1], axis=1)


@pytest.mark.parametrize("kind", DECODERS)
def test_draws_follow_the_filtered_distribution(kind):
    """Chi-square of the first two tokens of 4,000 sequences of a row, of a fixed key."""
    out = run(2, kind=kind, num_return_sequences=4000, max_new_tokens=2, eos_token_id=None, top_p=0.8)
    warpers = Warpers.of(replace(CONFIG, top_p=0.8))
    for row in range(2):
        tokens = np.asarray(out.tokens[row])
        first = next_state(row, 1)
        probs = np.asarray(jax.nn.softmax(warp(jnp.asarray(TABLE), warpers)), np.float64)
        seconds = probs[next_state(first, np.arange(10))]
        joint = (probs[first][:, None] * seconds).reshape(-1)
        counts = np.bincount(tokens[:, 1] * 10 + tokens[:, 2], minlength=100)
        assert not counts[joint == 0].any()
        real = joint > 0
        expected = joint[real] * len(tokens)
        statistic = ((counts[real] - expected) ** 2 / expected).sum()
        freedom = real.sum() - 1
        # mean and spread of chi-square: 4 standard deviations
        assert freedom > 15 and abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("kind", DECODERS)
def test_log_probs_are_the_models_own(kind):
    out = run(kind=kind)
    log_probs = np.asarray(jax.nn.log_softmax(TABLE))
    seen = set()
    for row in range(8):
        before = states(np.asarray(out.tokens[row]), row)
        for n in range(3):
            end = int(out.lengths[row, n])
            tokens = np.asarray(out.tokens[row, n])
            expected = log_probs[before[n, 1:end], tokens[1:end]]
            np.testing.assert_allclose(out.token_log_probs[row, n, 1:end], expected, atol=1e-5)
            np.testing.assert_allclose(out.scores[row, n], expected.mean(), atol=1e-5)
            assert (tokens[end:] == 0).all() and not np.any(out.token_log_probs[row, n, end:])
            assert out.finished[row, n] == (tokens[end - 1] in STOPS)
            assert not set(tokens[1 : end - 1]) & set(STOPS)
            seen.add(tuple(tokens))
    assert len(seen) > 15
    # as long as the longest sequence needs
    assert int(out.steps) == int(out.lengths.max()) - 1


def test_a_row_draws_from_the_key_and_its_place_alone():
    out = run(8)
    again = run(8)
    np.testing.assert_array_equal(out.tokens, again.tokens)
    assert (run(8, key=jax.random.key(1)).tokens != out.tokens).any()
    # fewer rows, more fillers, fewer sequences, a longer buffer, a prompt in a wider bucket: the same draws
    np.testing.assert_array_equal(run(5, batch_size=11).tokens, out.tokens[:5])
    np.testing.assert_array_equal(run(8, num_return_sequences=1).tokens, out.tokens[:, :1])
    np.testing.assert_array_equal(run(8, max_new_tokens=40).tokens[:, :, :6], out.tokens[:, :, :6])
    prompt = np.broadcast_to(np.array([0, 0, 1], np.int32), (8, 3))
    mask = np.broadcast_to(np.array([False, False, True]), (8, 3))
    padded = run(8, prompt=prompt, prompt_mask=mask)
    np.testing.assert_array_equal(padded.tokens[:, :, 2:], out.tokens)
    # a raw key of the old kind is the same key
    old, new = (row_keys(key, 2, 3) for key in (jax.random.PRNGKey(0), KEY))
    np.testing.assert_array_equal(jax.random.key_data(old), jax.random.key_data(new))


def test_sharded_batch_draws_the_same():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    definition, params, _ = split(SlotDecoder(TABLE))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    source = jax.device_put(sources(8), NamedSharding(mesh, PartitionSpec("data")))
    out = generate(definition, params, source, config=CONFIG, key=KEY)
    np.testing.assert_array_equal(out.tokens, run(8).tokens)


def test_new_keys_and_numbers_compile_nothing():
    run(8)
    definition, params, _ = split(SlotDecoder(TABLE))
    other, key, source = (
        replace(CONFIG, temperature=0.5, top_p=0.3, top_k=7),
        jax.random.key(5),
        sources(8) + 1,
    )
    with compilations() as names, jax.transfer_guard("disallow"):
        jax.block_until_ready(generate(definition, params, jax.device_put(source), config=other, key=key))
    assert names == []


def test_one_token_left_is_greedy():
    definition, params, _ = split(SlotDecoder(TABLE))
    plain = replace(CONFIG, do_sample=False, num_return_sequences=1)
    expected = generate(definition, params, sources(), config=plain)
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-6}):
        out = run(8, num_return_sequences=1, **options)
        for name in ("tokens", "scores", "lengths", "token_log_probs", "finished", "steps"):
            np.testing.assert_array_equal(getattr(out, name), getattr(expected, name))


def test_one_program_draws_what_two_draw():
    model = SlotDecoder(TABLE)
    run_fused = jax.jit(lambda source, key: encode_and_decode(model, source, config=CONFIG, key=key))
    np.testing.assert_array_equal(run_fused(sources(8), KEY).tokens, run(8).tokens)


def test_sequences_of_a_row_share_no_history():
    definition, params = parts("image learned")
    given = case("image learned", 0)
    config = replace(CONFIG, max_new_tokens=12, eos_token_id=2)
    out = generate(
        definition,
        params,
        given.source,
        prompt=given.prompt,
        prompt_mask=given.prompt_mask,
        config=config,
        key=KEY,
    )

    @jax.jit
    def score(params, tokens):
        model = merge(definition, params)
        encoded = model.encode(given.source, source_mask=None, train=False)
        encoded = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), encoded)
        real = jnp.ones(tokens.shape, bool).at[:, :, :3].set(given.prompt_mask[:, None])
        tokens, real = (a.reshape(-1, tokens.shape[-1])[:, :-1] for a in (tokens, real))
        return jax.nn.log_softmax(model.decode(encoded, tokens, decoder_mask=real, train=False).logits)

    expected = score(params, out.tokens).reshape(4, 3, -1, 12)
    expected = jnp.take_along_axis(expected, out.tokens[:, :, 1:, None], axis=-1)[..., 0]
    place = jnp.arange(1, out.tokens.shape[-1])
    generated = (place >= 3) & (place < out.lengths[:, :, None])
    np.testing.assert_allclose(out.token_log_probs[:, :, 1:], jnp.where(generated, expected, 0), atol=1e-4)


def test_what_does_not_fit_is_refused():
    definition, params, _ = split(SlotDecoder(TABLE))
    plain = replace(CONFIG, do_sample=False, num_return_sequences=1)
    with pytest.raises(ValueError, match="needs a key.*jax.random.key"):
        generate(definition, params, sources(), config=CONFIG)
    for config in (plain, replace(plain, num_beams=2)):
        with pytest.raises(ValueError, match="a key was given.*do_sample=True"):
            generate(definition, params, sources(), config=config, key=KEY)
    for config in (CONFIG, replace(plain, num_beams=2)):
        with pytest.raises(ValueError, match="greedy decodes with neither"):
            greedy(SlotDecoder(TABLE), None, jnp.ones((1, 1), jnp.int32), config=config)
    with pytest.raises(ValueError, match="needs a key"):
        sample(SlotDecoder(TABLE), None, jnp.ones((1, 1), jnp.int32), config=CONFIG)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_beams": 2}, "sampling goes without beams"),
        ({"temperature": 0.0}, "do_sample=False"),
        ({"temperature": float("inf")}, "positive"),
        ({"top_k": -1}, "0 or more"),
        ({"top_p": 1.1}, "0.0 to 1.0"),
        ({"min_p": -0.1}, "0.0 to 1.0"),
        ({"typical_p": 0.0}, "more than 0"),
        ({"epsilon_cutoff": 1.0}, "less than 1"),
        ({"eta_cutoff": -0.1}, "less than 1"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        GenerationConfig(do_sample=True, **options)
