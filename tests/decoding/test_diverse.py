"""Diverse beam search against transformers 4 (golden/diverse.json) and against what the paper says of it."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.decoding.decoders import StateDecoder, make_table
from vitjax.decoding import GenerationConfig, generate
from vitjax.nn.functional import split

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "diverse.json").read_text())
ROWS = GOLDEN["rows"]


def run(table, config, rows=ROWS):
    definition, params, _ = split(StateDecoder(table))
    source, prompt = np.arange(rows, dtype=np.int32)[:, None], np.ones((rows, 1), np.int32)
    return jax.device_get(generate(definition, params, source, prompt=prompt, config=config))


@pytest.mark.parametrize("number", range(len(GOLDEN["sets"])))
def test_matches_transformers_4(number):
    options, vocabulary = GOLDEN["sets"][number]["options"], GOLDEN["sets"][number]["vocabulary"]
    for case in GOLDEN["sets"][number]["cases"]:
        config = GenerationConfig(**options, **case["lengths"])
        table = make_table(**case["table"], vocabulary=vocabulary, stops=(2,))
        table[:, config.pad_token_id] = -60
        out = run(table, config)
        np.testing.assert_allclose(out.scores, case["scores"], atol=1e-5, rtol=1e-5)
        length = len(case["sequences"][0][0])
        assert out.tokens[:, :, :length].tolist() == case["sequences"]
        assert (out.tokens[:, :, length:] == config.filler).all()


def test_groups_of_one_with_a_large_penalty_share_no_token():
    config = GenerationConfig(
        num_beams=4, num_beam_groups=4, diversity_penalty=100.0, num_return_sequences=4, max_new_tokens=3
    )
    out = run(make_table(3, 9), config, rows=6)
    for row in range(6):
        for column in range(1, 4):
            assert len(set(out.tokens[row, :, column].tolist())) == 4
    # the first group, wherever its sequence ranks, is a search of its own
    alone = run(make_table(3, 9), GenerationConfig(max_new_tokens=3), rows=6)
    assert (out.tokens == alone.tokens).all(axis=2).any(axis=1).all()
    for n in range(4):
        total = out.token_log_probs[:, n].sum(axis=1) / 3
        np.testing.assert_allclose(total, out.scores[:, n], rtol=1e-5)
