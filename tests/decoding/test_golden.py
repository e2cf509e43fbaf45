"""vitjax generates what transformers generated (golden/beam_search.json, made by golden/make_beam_search.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.decoding import reference
from tests.decoding.decoders import StateDecoder, make_table
from vitjax.decoding import GenerationConfig, generate
from vitjax.nn.functional import split

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "beam_search.json").read_text())
ROWS = GOLDEN["rows"]
# Beams that were never alive score about -1e9, where float32 steps by 64: transformers has no order among them.
ALIVE = -1e8


def load(case):
    table = make_table(**case["table"])
    options = {
        key: tuple(value) if isinstance(value, list) else value for key, value in case["options"].items()
    }
    config = GenerationConfig(**options)
    prompt = np.asarray(case["prompt"], np.int32)
    mask = None if case["prompt_mask"] is None else np.asarray(case["prompt_mask"], bool)
    return table, config, prompt, mask


def alive(case, row, n):
    return case["scores"] is None or case["scores"][row][n] > ALIVE


def expected(case, row, n, config):
    """The golden sequence without its filler, and the filler."""
    tokens, start = case["sequences"][row][n], len(case["prompt"][row])
    ends = [t + 1 for t in range(start, len(tokens)) if tokens[t] in config.stop_ids]
    end = ends[0] if ends else len(tokens)
    return tokens[:end], tokens[end:]


@pytest.mark.parametrize("number", range(len(GOLDEN["cases"])))
def test_generate_matches_transformers(number):
    case = GOLDEN["cases"][number]
    table, config, prompt, mask = load(case)
    definition, params, _ = split(StateDecoder(table))
    source = np.arange(ROWS, dtype=np.int32)[:, None]
    out = generate(definition, params, source, prompt=prompt, prompt_mask=mask, config=config)
    compared = 0
    for row in range(ROWS):
        for n in range(config.num_return_sequences):
            if not alive(case, row, n):
                continue
            tokens, filler = expected(case, row, n, config)
            got = np.asarray(out.tokens[row, n])
            assert got[: out.lengths[row, n]].tolist() == tokens
            assert (got[out.lengths[row, n] :] == config.filler).all()
            # transformers' beam search takes pad id 0 for unset; elsewhere the fillers agree too
            if config.num_beams == 1 or config.pad_token_id != 0:
                assert got[len(tokens) : len(tokens) + len(filler)].tolist() == filler
            if case["scores"] is not None:
                np.testing.assert_allclose(out.scores[row, n], case["scores"][row][n], atol=1e-5, rtol=1e-5)
            compared += 1
    assert compared >= ROWS


@pytest.mark.parametrize("number", range(len(GOLDEN["cases"])))
def test_reference_matches_transformers(number):
    """The plain NumPy restatement, which other tests rely on, is right."""
    case = GOLDEN["cases"][number]
    table, config, prompt, mask = load(case)
    for row in range(ROWS):
        logits = reference.table_logits(table, row, None if mask is None else mask[row].tolist())
        if config.num_beams == 1:
            found = [reference.greedy(logits, prompt[row].tolist(), config)]
        else:
            found = reference.beam_search(logits, prompt[row].tolist(), config)
        for n, (tokens, score) in enumerate(found):
            if alive(case, row, n):
                assert tokens == expected(case, row, n, config)[0]
                if case["scores"] is not None:
                    np.testing.assert_allclose(score, case["scores"][row][n], atol=1e-5, rtol=1e-5)
