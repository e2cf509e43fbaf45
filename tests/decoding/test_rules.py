"""The rule sets of other engines against restatements of those engines, and against all sequences there are."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.decoding import reference
from tests.decoding.decoders import StateDecoder, make_table
from tests.decoding.engines import ENGINES
from tests.decoding.test_beam_search import ALIVE, search
from vitjax.decoding import GenerationConfig, generate
from vitjax.decoding.rules import table
from vitjax.nn.functional import split

ROWS = 60
EOS = 2
VOCABULARY = 13  # more than twice the beams: the engines differ, or fail, where candidates run out
CASES = {
    "t5x": [
        {"num_beams": 4, "length_penalty": 0.6, "max_new_tokens": 12},
        {"num_beams": 3, "length_penalty": 2.0, "max_new_tokens": 5, "min_new_tokens": 2},
        {"num_beams": 2, "length_penalty": 0.0, "max_new_tokens": 4},
    ],
    "fairseq": [
        {"num_beams": 5, "length_penalty": 1.0, "max_new_tokens": 12},
        {"num_beams": 4, "length_penalty": 1.7, "max_new_tokens": 5, "min_new_tokens": 2},
        {"num_beams": 1, "length_penalty": -0.5, "max_new_tokens": 8, "no_repeat_ngram_size": 2},
    ],
    "ctranslate2": [
        {"num_beams": 4, "length_penalty": 1.0, "max_new_tokens": 12},
        {"num_beams": 3, "length_penalty": -0.4, "max_new_tokens": 6, "min_new_tokens": 2},
        {"num_beams": 4, "length_penalty": 0.0, "max_new_tokens": 9, "num_return_sequences": 2},
        {"num_beams": 2, "length_penalty": 0.7, "max_new_tokens": 8, "repetition_penalty": 1.4},
    ],
}


@functools.cache
def told(rules, number):
    """What the engine says, and what vitjax says, for many rows of several tables."""
    options = {"num_return_sequences": CASES[rules][number]["num_beams"]} | CASES[rules][number]
    config = GenerationConfig(rules=rules, eos_token_id=EOS, pad_token_id=0, **options)
    found = []
    for seed, (scale, bias) in enumerate([(1.5, 0.5), (3.0, 1.5), (0.7, -1.5)]):
        table = make_table(seed, VOCABULARY, scale=scale, stops=(EOS,), bias=bias)
        definition, params, _ = split(StateDecoder(table))
        source, prompt = np.arange(ROWS, dtype=np.int32)[:, None], np.full((ROWS, 2), 1, np.int32)
        out = jax.device_get(generate(definition, params, source, prompt=prompt, config=config))
        engine = ENGINES[rules]
        found.append(
            (out, [engine(reference.table_logits(table, row), [1, 1], config) for row in range(ROWS)])
        )
    return config, found


@pytest.mark.parametrize(
    ("rules", "number"), [(rules, i) for rules in CASES for i in range(len(CASES[rules]))]
)
def test_matches_the_engine(rules, number):
    config, found = told(rules, number)
    for out, rows in found:
        assert out.steps == max(steps for _, steps in rows)
        for row, (hypotheses, _) in enumerate(rows):
            kept = hypotheses[: config.num_return_sequences]
            for n, (tokens, score) in enumerate(kept):
                close = [s for _, s in (*kept[n - 1 : n], *kept[n + 1 : n + 2]) if abs(s - score) < 1e-5]
                if close or score == -np.inf:  # no order to agree on
                    continue
                end = out.lengths[row, n]
                assert out.tokens[row, n, :end].tolist() == tokens
                assert out.finished[row, n] == (tokens[-1] == EOS)
                assert (out.tokens[row, n, end:] == 0).all()
                np.testing.assert_allclose(out.scores[row, n], score, atol=1e-5, rtol=1e-5)
                assert not out.token_log_probs[row, n, end:].any()
            assert (out.scores[row, len(kept) :] < ALIVE).all()


@pytest.mark.parametrize("rules", CASES)
def test_the_rules_matter(rules):
    """Rows end differently than under transformers' rules, so that the tests above can fail."""
    config, found = told(rules, 0)
    plain = dataclasses.replace(config, rules="transformers")
    different = 0
    for seed, (out, _) in enumerate(found):
        scale, bias = [(1.5, 0.5), (3.0, 1.5), (0.7, -1.5)][seed]
        table = make_table(seed, VOCABULARY, scale=scale, stops=(EOS,), bias=bias)
        for row in range(20):
            best = reference.beam_search(reference.table_logits(table, row), [1, 1], plain)[0][0]
            different += out.tokens[row, 0, : out.lengths[row, 0]].tolist() != best
    assert different >= 3


@pytest.mark.parametrize("rules", CASES)
def test_wide_enough_beams_find_the_best(rules):
    # 1 + 3 + 9 sequences of 4 tokens end in EOS in 3 steps, 27 more are cut
    config = GenerationConfig(
        rules=rules,
        num_beams=40,
        num_return_sequences=40,
        max_new_tokens=3,
        eos_token_id=3,
        length_penalty=0.8,
    )
    logits = make_table(7, 4, stops=(3,), bias=1.0)
    out = jax.device_get(search(StateDecoder(logits), np.arange(8), np.zeros((8, 1)), None, config))
    sums = dataclasses.replace(config, rules="transformers", length_penalty=0.0)
    for row in range(8):
        scores = {}
        for tokens, total in reference.every_sequence(reference.table_logits(logits, row), [0], sums):
            n, ends = len(tokens) - 1, tokens[-1] == 3
            if rules == "ctranslate2":
                scores[tuple(tokens)] = total / (n - ends) ** 0.8 if n > ends else -np.inf
            elif ends:
                scores[tuple(tokens)] = total / (n if rules == "fairseq" else (5 + n) / 6) ** 0.8
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        assert tuple(out.tokens[row, 0, : out.lengths[row, 0]].tolist()) == ranked[0]
        finite = [scores[tokens] for tokens in ranked if scores[tokens] > -np.inf]
        np.testing.assert_allclose(out.scores[row, : len(finite)], finite, atol=1e-5)
        assert (out.scores[row, len(finite) :] < ALIVE).all()


def test_weights():
    def weights(rules, penalty):
        return table(GenerationConfig(rules=rules, eos_token_id=1, length_penalty=penalty), 3)

    for rules in ("transformers", "fairseq", "ctranslate2"):
        np.testing.assert_allclose(weights(rules, 2.0), [np.inf, 1, 1 / 4, 1 / 9, 1 / 16], rtol=1e-6)
        np.testing.assert_allclose(weights(rules, -1.0), [0, 1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(weights("t5x", 2.0), [36 / 25, 1, 36 / 49, 36 / 64, 36 / 81], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rules": "t5x", "early_stopping": True}, "has its own way to stop"),
        ({"rules": "fairseq"}, "set eos_token_id"),
    ],
)
def test_options_that_do_not_fit(options, told):
    with pytest.raises(ValueError, match=told):
        GenerationConfig(**options)


def test_unknown_rules():
    with pytest.raises(
        (ValueError, TypeError), match="opennmt"
    ):  # TypeError under the tests' own type checker
        GenerationConfig(rules="opennmt")


def test_no_room_for_the_eos_that_fairseq_forces():
    config = GenerationConfig(rules="fairseq", eos_token_id=1, max_new_tokens=4, min_new_tokens=4)
    with pytest.raises(ValueError, match="no room for EOS"):
        config.limits(1)
