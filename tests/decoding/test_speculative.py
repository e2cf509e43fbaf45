"""Speculative decoding writes what the large model would have written alone, in fewer passes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding.decoders import DECODERS, SlotDecoder, StateDecoder, make_table, next_state
from tests.decoding.test_generate import compilations
from tests.decoding.test_models import case, parts
from vitjax.decoding import Assistant, GenerationConfig, generate, speculative
from vitjax.decoding.sample import one_per_row
from vitjax.decoding.warpers import Warpers, warp
from vitjax.nn.functional import merge, split

STOPS = (2, 4)
TABLE = make_table(3, 10, scale=4.0, stops=STOPS)
NOISY = TABLE + make_table(4, 10, scale=1.5)
GREEDY = GenerationConfig(max_new_tokens=20, eos_token_id=STOPS, pad_token_id=0, decoder_start_token_id=1)
KEY = jax.random.key(0)
ROWS = 12
SEQUENCES = ("tokens", "scores", "lengths", "token_log_probs", "finished")


def sources(rows=ROWS):
    return np.arange(rows, dtype=np.int32)[:, None]


def assistant(table=NOISY, kind="slots"):
    definition, params, _ = split(DECODERS[kind](table))
    return Assistant(definition, params)


def run(table=TABLE, rows=ROWS, *, start=0, config=GREEDY, draft=None, key=None, **options):
    definition, params, _ = split(SlotDecoder(table))
    draft = assistant() if draft is None else draft
    return speculative(
        definition, params, sources(rows) + start, assistant=draft, config=config, key=key, **options
    )


def plain(config=GREEDY, rows=ROWS, **options):
    definition, params, _ = split(SlotDecoder(TABLE))
    return generate(definition, params, sources(rows), config=config, **options)


def assert_same(one, other):
    for name in SEQUENCES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5, err_msg=name)


RULES = {
    "short": {},
    "long": {"eos_token_id": None, "max_new_tokens": 40},
    "rules": {
        "max_length": 15,
        "max_new_tokens": None,
        "min_new_tokens": 6,
        "forced_eos_token_id": 3,
        "forced_bos_token_id": 5,
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "length_penalty": 0.5,
    },
}


@pytest.mark.parametrize(("kind", "drafted"), [("slots", 1), ("state", 4)])
@pytest.mark.parametrize("rules", RULES)
def test_greedy_writes_the_same(kind, drafted, rules):
    config = replace(GREEDY, **RULES[rules])
    expected = plain(config)
    out = run(config=config, draft=assistant(kind=kind), num_assistant_tokens=drafted)
    assert_same(out.sequences, expected)
    accepted, examined = np.asarray(out.accepted), np.asarray(out.examined)
    assert (accepted >= 0).all() and (accepted <= examined).all()
    assert 0.1 < out.acceptance_rate < 0.95
    # each pass writes one token of its own and what it accepts, and the prompt's pass one
    passes, written = int(out.sequences.steps), np.asarray(expected.lengths[:, 0]) - 1
    assert (written <= 1 + (passes - 1) * (drafted + 1)).all()
    assert passes <= int(expected.steps)
    assert passes < int(expected.steps) or drafted == 1


def test_a_perfect_draft_is_always_kept():
    config = replace(GREEDY, eos_token_id=None, max_new_tokens=21)
    out = run(config=config, draft=assistant(TABLE, "state"), num_assistant_tokens=3)
    assert out.acceptance_rate == 1.0
    assert int(out.sequences.steps) == 1 + 5  # the prompt's, then four tokens each
    assert_same(out.sequences, plain(config))
    sampled = run(
        config=replace(config, do_sample=True), draft=assistant(TABLE), num_assistant_tokens=3, key=KEY
    )
    assert sampled.acceptance_rate == 1.0 and int(sampled.sequences.steps) == 6


def test_a_useless_draft_costs_passes_and_nothing_else():
    never = np.full_like(TABLE, -30.0)
    never[np.arange(len(TABLE)), TABLE.argmin(axis=1)] = 30.0
    out = run(draft=assistant(never))
    assert_same(out.sequences, plain())
    assert out.acceptance_rate == 0.0 and int(out.sequences.steps) == int(plain().steps)


def test_prompts_rows_and_buckets():
    prompt = 1 + (np.arange(ROWS * 5, dtype=np.int32) % 9).reshape(ROWS, 5)
    mask = np.arange(5)[None] >= np.arange(ROWS)[:, None] % 5
    prompt = np.where(mask, prompt, 0).astype(np.int32)
    options = dict(prompt=prompt, prompt_mask=mask)
    whole = run(**options)
    assert_same(whole.sequences, plain(**options))
    part = run(rows=5, batch_size=ROWS, prompt=prompt[:5], prompt_mask=mask[:5])
    assert part.examined.shape == (5,)
    np.testing.assert_array_equal(part.sequences.tokens, whole.sequences.tokens[:5])
    np.testing.assert_array_equal(part.accepted, whole.accepted[:5])


def test_three_programs_and_then_nothing():
    config = replace(GREEDY, do_sample=True, top_p=0.9)
    jax.clear_caches()
    split(SlotDecoder(TABLE))
    with compilations() as names:
        run(rows=8, config=config, key=KEY)
    # both encoders are one program here, since the test's models differ in their numbers alone
    assert len(names) == 2, names
    with compilations() as names:
        run(TABLE * 2, rows=7, batch_size=8, config=replace(config, top_p=0.7, max_new_tokens=9), key=KEY)
    assert names == []


SAMPLED = replace(
    GREEDY, do_sample=True, top_k=6, top_p=0.95, temperature=1.4, max_new_tokens=3, eos_token_id=2
)


# with one draft the third token is the one that follows when all are kept
@pytest.mark.parametrize(("kind", "drafted"), [("slots", 1), ("state", 2)])
def test_sampling_has_the_distribution_of_the_large_model(kind, drafted):
    """Chi-square of all sequences of three tokens, 6,000 rows that start alike, a fixed key."""
    count, size = 6000, 5
    table = make_table(5, size, scale=1.0)
    draft = make_table(6, size, scale=1.0)
    definition, params, _ = split(SlotDecoder(table))
    start = np.full((count, 1), 7, np.int32)
    given = assistant(draft, kind)
    out = speculative(
        definition, params, start, assistant=given, num_assistant_tokens=drafted, config=SAMPLED, key=KEY
    )
    assert 0.3 < out.acceptance_rate < 0.9
    probs = np.asarray(jax.nn.softmax(warp(jnp.asarray(table), Warpers.of(SAMPLED))), np.float64)
    expected = np.ones((size, size, size))
    first = next_state(7, 1)
    for a in range(size):
        for b in range(size):
            for c in range(size):
                second = next_state(first, a)
                third = next_state(second, b)
                chance = probs[first, a]
                # what follows EOS (2) is filler (0)
                chance *= float(b == 0) if a == 2 else probs[second, b]
                chance *= float(c == 0) if 2 in (a, b) else probs[third, c]
                expected[a, b, c] = chance * count
    tokens = np.asarray(out.sequences.tokens)[:, 0, 1:]
    counts = np.zeros((size, size, size))
    np.add.at(counts, tuple(tokens.T), 1)
    assert not counts[expected == 0].any()
    real = expected > 5
    statistic = ((counts[real] - expected[real]) ** 2 / expected[real]).sum()
    freedom = real.sum()
    # mean and spread of chi-square: 4 standard deviations
    assert freedom > 30 and abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_a_rows_draws_depend_on_its_place_alone():
    config = replace(SAMPLED, max_new_tokens=12)
    whole = run(config=config, key=KEY)
    np.testing.assert_array_equal(run(config=config, key=KEY).sequences.tokens, whole.sequences.tokens)
    keys = one_per_row(KEY, ROWS)
    part = run(rows=5, batch_size=ROWS, config=config, key=keys[2:7], start=2)
    np.testing.assert_array_equal(part.sequences.tokens, whole.sequences.tokens[2:7])
    other = run(config=config, key=jax.random.key(1))
    assert (other.sequences.tokens != whole.sequences.tokens).any()


@pytest.mark.parametrize(
    ("name", "helper"),
    [
        ("image learned", "image lstm"),
        ("text rotary", "text relative"),
    ],
)
def test_real_models(name, helper):
    definition, params = parts(name)
    given = case(name, 0)
    options = dict(
        source_mask=given.source_mask,
        prompt=given.prompt,
        prompt_mask=given.prompt_mask,
        config=GenerationConfig(max_new_tokens=20, eos_token_id=2, pad_token_id=0),
    )
    expected = generate(definition, params, given.source, **options)
    out = speculative(
        definition,
        params,
        given.source,
        assistant=Assistant(*parts(helper)),
        num_assistant_tokens=3,
        **options,
    )
    np.testing.assert_array_equal(out.sequences.tokens, expected.tokens)
    np.testing.assert_allclose(out.sequences.token_log_probs, expected.token_log_probs, atol=1e-4)


def test_several_tokens_at_once_are_steps_that_can_be_forgotten():
    definition, params = parts("text relative")
    given = case("text relative", 0)

    @jax.jit
    def both(params):
        model = merge(definition, params).prepared()
        encoded = model.encode(given.source, source_mask=given.source_mask, train=False)
        cache = model.init_cache(encoded, num_beams=2, max_length=9)
        _, cache = model.prefill(cache, given.prompt, given.prompt_mask)
        tokens = jnp.arange(4 * 2 * 3).reshape(4, 2, 3) % 12
        mark = cache.mark()
        _, wrong = model.extend(cache, tokens + 1)
        at_once, _ = model.extend(wrong.restore(mark), tokens)
        steps = []
        for t in range(3):
            logits, cache = model.step(cache, tokens[:, :, t])
            steps.append(logits)
        return at_once, jnp.stack(steps, axis=2)

    np.testing.assert_allclose(*both(params), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "given", "match"),
    [
        ({"num_beams": 2}, {}, "one sequence a row"),
        ({"rules": "t5x"}, {}, "by transformers' rules"),
        ({"do_sample": True, "num_return_sequences": 2}, {"key": KEY}, "one sequence a row"),
        ({}, {"num_assistant_tokens": 0}, "1 or more"),
        ({}, {"key": KEY}, "a key was given"),
        ({"do_sample": True}, {}, "needs a key"),
        ({}, {"draft": assistant(make_table(1, 11))}, "10 tokens and the assistant 11"),
    ],
)
def test_what_does_not_fit_is_refused(options, given, match):
    with pytest.raises(ValueError, match=match):
        run(config=replace(GREEDY, **options), **given)


def test_a_model_that_cannot_verify_is_refused():
    definition, params, _ = split(StateDecoder(TABLE))
    with pytest.raises(ValueError, match="StateDecoder cannot verify drafts.*can be the assistant"):
        speculative(definition, params, sources(), assistant=assistant(), config=GREEDY)
