"""Beam search against transformers' rules restated, against all sequences there are, and against itself."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding import reference
from tests.decoding.decoders import DECODERS, STATES, Encoded, make_table
from vitjax.decoding import GenerationConfig, beam_search, generate
from vitjax.nn.functional import split

ROWS = 20
RANDOM_CONFIGS = 18
PENALTIES = (1.0, 0.0, -1.0, 0.6, 2.0, -0.3)  # each with each rule of early stopping
ALIVE = -1e8  # see test_golden.py


def search(model, starts, prompt, mask, config):
    @jax.jit
    def run(starts, prompt, mask):
        return beam_search(model, Encoded(starts), prompt, mask, config=config)

    return run(np.asarray(starts, np.int32), np.asarray(prompt, np.int32), mask)


def draw(seed):
    """A random vocabulary, table, prompts and options."""
    random = np.random.default_rng(seed)
    vocabulary = int(random.integers(6, 14))
    count = random.choice(4, p=[0.1, 0.4, 0.3, 0.2])
    stops = tuple(int(i) for i in random.choice(vocabulary, count, replace=False))
    new = int(random.choice([1, 3, 8, 14, 45]))
    length = int(random.integers(1, 4))
    beams = int(random.integers(1, 7))
    config = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams if seed % 4 else 1,
        max_new_tokens=new,
        eos_token_id=stops,
        pad_token_id=int(random.integers(vocabulary)),
        length_penalty=PENALTIES[seed // 3 % len(PENALTIES)],
        early_stopping=[True, False, "never"][seed % 3],
        min_length=int(random.integers(0, length + new + 1)) if random.random() < 0.4 else 0,
    )
    bias = float(random.choice([-1.0, 0.0, 1.0, 2.0]))
    table = make_table(seed, vocabulary, scale=float(random.choice([0.7, 1.5, 3.0])), stops=stops, bias=bias)
    prompt = random.integers(0, vocabulary, (ROWS, length))
    real = random.integers(1, length + 1, ROWS)
    mask = np.arange(length)[None] >= length - real[:, None] if random.random() < 0.5 else None
    return config, table, prompt, mask


def assert_matches_the_restatement(config, table, starts, prompt, mask, kind):
    out = search(DECODERS[kind](table), starts, prompt, mask, config)
    length = prompt.shape[1]
    for row, start in enumerate(starts):
        logits = reference.table_logits(table, start, None if mask is None else mask[row].tolist())
        for n, (tokens, score) in enumerate(reference.beam_search(logits, prompt[row].tolist(), config)):
            if score < ALIVE:
                continue
            end = int(out.lengths[row, n])
            assert out.tokens[row, n, :end].tolist() == tokens
            assert set(out.tokens[row, n, end:].tolist()) <= {config.filler}
            np.testing.assert_allclose(out.scores[row, n], score, atol=1e-5, rtol=1e-5)
            log_probs = np.asarray(out.token_log_probs[row, n])
            assert not log_probs[:length].any() and not log_probs[end:].any()
            total = log_probs.sum() / (end - length) ** config.length_penalty
            np.testing.assert_allclose(total, score, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(RANDOM_CONFIGS))
def test_matches_the_restatement(seed):
    config, table, prompt, mask = draw(seed)
    starts = np.random.default_rng(seed).integers(0, STATES, ROWS)
    assert_matches_the_restatement(config, table, starts, prompt, mask, list(DECODERS)[seed % 2])


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("penalty", [-0.3, 1.5])
def test_stops_by_the_rule(penalty, early_stopping):
    # Sure of its tokens and fond of EOS: here the rules of stopping differ in some rows.
    config = GenerationConfig(
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=14,
        eos_token_id=2,
        length_penalty=penalty,
        early_stopping=early_stopping,
    )
    table = make_table(5, 8, scale=3.0, stops=(2,), bias=2.0)
    assert_matches_the_restatement(config, table, np.arange(40), np.ones((40, 1), int), None, "state")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("state", {"length_penalty": 1.0}),
        ("slots", {"length_penalty": 0.0}),
        ("state", {"length_penalty": -1.0, "repetition_penalty": 1.7}),
        ("slots", {"no_repeat_ngram_size": 2, "begin_suppress_tokens": [1], "repetition_penalty": 0.8}),
        ("state", {"bad_words_ids": [[2], [0, 1], [1, 0, 3]], "min_new_tokens": 1, "length_penalty": 2.0}),
    ],
)
def test_wide_enough_beams_find_every_sequence_in_order(kind, options):
    # 3 new tokens of 4, one of them EOS: 1 + 3 + 9 * 4 = 40 sequences at most. 40 beams keep them all.
    config = GenerationConfig(
        num_beams=40, num_return_sequences=40, max_new_tokens=3, eos_token_id=3, **options
    )
    table = make_table(7, 4, stops=(3,), bias=1.0)
    rows = 8
    out = search(DECODERS[kind](table), np.arange(rows), np.zeros((rows, 1)), None, config)
    out = jax.device_get(out)
    for row in range(rows):
        everything = list(reference.every_sequence(reference.table_logits(table, row), [0], config))
        count = len(everything)
        assert count == 40 or (count < 40 and len(options) > 1)
        everything.sort(key=lambda found: -found[1])
        np.testing.assert_allclose(out.scores[row, :count], [score for _, score in everything], atol=1e-5)
        assert (out.scores[row, count:] < ALIVE).all()
        close = {i for i, (a, b) in enumerate(itertools.pairwise(everything)) if a[1] - b[1] < 1e-5}
        for n, (tokens, _) in enumerate(everything):
            if not {n, n - 1} & close:
                assert out.tokens[row, n, : out.lengths[row, n]].tolist() == tokens


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_narrow_beams_find_no_better_than_the_best(early_stopping):
    config = GenerationConfig(num_beams=2, max_new_tokens=5, eos_token_id=0, early_stopping=early_stopping)
    table = make_table(8, 4, stops=(0,), bias=0.5)
    out = search(DECODERS["state"](table), np.arange(8), np.ones((8, 1)), None, config)
    found = 0
    for row in range(8):
        everything = dict()
        for tokens, score in reference.every_sequence(reference.table_logits(table, row), [1], config):
            everything[tuple(tokens)] = score
        best = max(everything, key=everything.__getitem__)
        tokens = tuple(out.tokens[row, 0, : out.lengths[row, 0]].tolist())
        assert everything[tokens] == pytest.approx(float(out.scores[row, 0]), abs=1e-5)
        assert everything[tokens] <= everything[best] + 1e-5
        found += tokens == best
    assert found >= 2


PERMUTED = GenerationConfig(
    num_beams=3, num_return_sequences=2, max_new_tokens=10, eos_token_id=(2, 4), length_penalty=0.7
)


@functools.cache
def permuted_search():
    model = DECODERS["slots"](make_table(9, 8, stops=(2, 4), bias=1.0))

    @jax.jit
    def run(starts, prompt):
        return beam_search(model, Encoded(starts), prompt, config=PERMUTED)

    return run


def assert_rows_equal(out, rows, other, other_rows):
    for name, leaf in vars(out).items():
        if name != "steps":  # of the whole batch
            np.testing.assert_array_equal(
                np.asarray(leaf)[rows], np.asarray(getattr(other, name))[other_rows]
            )


@given(data=st.data())
def test_a_row_does_not_depend_on_the_rest_of_the_batch(data):
    rows = 6
    numbers = st.lists(st.integers(0, STATES - 1), min_size=rows, max_size=rows)
    starts = np.asarray(data.draw(numbers), np.int32)
    order = np.asarray(data.draw(st.permutations(range(rows))))
    prompt = np.arange(rows, dtype=np.int32)[:, None]
    run = permuted_search()
    out, permuted = run(starts, prompt), run(starts[order], prompt[order])
    assert_rows_equal(out, order, permuted, np.arange(rows))

    others = np.asarray(data.draw(numbers), np.int32)
    others[0] = starts[0]
    alone = run(others, prompt)
    assert_rows_equal(out, 0, alone, 0)


@given(
    starts=st.lists(st.integers(0, STATES - 1), min_size=6, max_size=6),
    new=st.integers(1, 30),
    least=st.integers(0, 30),
    real=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_log_probabilities_add_up_and_a_row_does_not_depend_on_its_bucket(starts, new, least, real):
    """One program for all of it: other lengths, another order of rows, one more column in front of the prompts."""
    table = make_table(9, 8, stops=(2, 4), bias=1.0)
    definition, params, _ = split(DECODERS["state"](table))

    def run(starts, length, real):
        prompt = np.full((len(starts), length), 3, np.int32)
        config = dataclasses.replace(PERMUTED, max_new_tokens=new, min_new_tokens=min(least, new))
        out = generate(
            definition,
            params,
            np.asarray(starts, np.int32)[:, None],
            prompt=prompt,
            prompt_mask=np.arange(length) >= length - np.asarray(real)[:, None],
            config=config,
        )
        return jax.device_get(out)

    out, other = run(starts, 9, real), run([*starts[3:], *starts[:3]], 10, [*real[3:], *real[:3]])
    sums, generated = out.token_log_probs.sum(axis=-1), out.lengths - 9
    alive = out.scores > ALIVE
    np.testing.assert_allclose(
        sums[alive], (out.scores * generated**PERMUTED.length_penalty)[alive], rtol=1e-5, atol=1e-5
    )
    assert ((out.token_log_probs != 0).sum(axis=-1) <= generated).all()
    rolled = np.roll(np.arange(6), 3)
    np.testing.assert_array_equal(other.tokens[rolled][:, :, 1:], out.tokens)
    np.testing.assert_array_equal(other.scores[rolled], out.scores)
    np.testing.assert_array_equal(other.finished[rolled], out.finished)


def test_too_small_a_vocabulary():
    config = GenerationConfig(num_beams=2, eos_token_id=(0, 1, 2))
    with pytest.raises(ValueError, match="expected 4 tokens or more"):
        search(DECODERS["state"](make_table(0, 3)), np.arange(2), np.ones((2, 1)), None, config)
