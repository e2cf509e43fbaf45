"""Greedy decoding against its restatement and against beam search with one beam."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.decoding import reference
from tests.decoding.decoders import DECODERS, Encoded, make_table
from vitjax.decoding import GenerationConfig, beam_search, greedy

ROWS = 16
STARTS = np.arange(ROWS, dtype=np.int32)
CONFIGS = [
    GenerationConfig(max_new_tokens=12, eos_token_id=2, pad_token_id=0),
    GenerationConfig(max_length=40, eos_token_id=(2, 5), pad_token_id=7, min_length=9, length_penalty=-0.5),
    GenerationConfig(max_new_tokens=1, eos_token_id=2, length_penalty=0.0),
    GenerationConfig(max_new_tokens=9, forced_eos_token_id=3, min_new_tokens=4, eos_token_id=(3, 4)),
]


def decode(search, table, config, prompt, kind="slots"):
    model = DECODERS[kind](table)
    run = jax.jit(lambda starts, prompt: search(model, Encoded(starts), prompt, config=config))
    return run(STARTS, prompt)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_matches_the_restatement(number, kind):
    config = CONFIGS[number]
    table = make_table(number, 9, stops=config.stop_ids, bias=1.0)
    prompt = np.full((ROWS, 2), 1, np.int32)
    out = decode(greedy, table, config, prompt, kind=kind)
    assert out.tokens.shape == (ROWS, 1, config.limits(2).maximum)
    for row in range(ROWS):
        tokens, score = reference.greedy(reference.table_logits(table, row), [1, 1], config)
        end = int(out.lengths[row, 0])
        assert out.tokens[row, 0, :end].tolist() == tokens
        assert set(out.tokens[row, 0, end:].tolist()) <= {config.filler}
        np.testing.assert_allclose(out.scores[row, 0], score, atol=1e-5)
        generated = out.token_log_probs[row, 0, 2:end]
        np.testing.assert_allclose(
            generated.sum() / (end - 2) ** config.length_penalty, out.scores[row, 0], rtol=1e-5
        )
        assert not np.any(out.token_log_probs[row, 0, end:]) and not np.any(out.token_log_probs[row, 0, :2])


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_is_beam_search_with_one_beam_that_stops_at_once(number):
    config = CONFIGS[number]
    table = make_table(50 + number, 9, stops=config.stop_ids, bias=1.0)
    prompt = np.full((ROWS, 1), 1, np.int32)
    one = decode(greedy, table, config, prompt)
    other = decode(beam_search, table, dataclasses.replace(config, early_stopping=True), prompt)
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.lengths.tolist() == other.lengths.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-5)
