"""vitjax generates what transformers generated (golden/beam_search.json, made by golden/make_beam_search.py)."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.decoding import reference
from tests.decoding.decoders import StateDecoder, make_table
from vitjax.decoding import GenerationConfig, generate
from vitjax.nn.functional import split

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "beam_search.json").read_text())
ROWS = GOLDEN["rows"]
ALL_SETS = range(len(GOLDEN["sets"]))


def cases(number):
    """Of one set of options: each case with its table, its config, its prompts and their mask."""
    options = GOLDEN["sets"][number]["options"]
    vocabulary = GOLDEN["sets"][number]["vocabulary"]
    for case in GOLDEN["sets"][number]["cases"]:
        config = GenerationConfig(**tuples(options | case["lengths"]))
        table = make_table(**case["table"], vocabulary=vocabulary, stops=config.stop_ids)
        prompt = np.asarray(case["prompt"], np.int32)
        mask = np.arange(prompt.shape[1]) >= prompt.shape[1] - np.asarray(case["real"])[:, None]
        yield case, config, table, prompt, mask


def tuples(value):
    if isinstance(value, dict):
        return {name: tuples(each) for name, each in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def expected(case, row, n, config):
    """The golden sequence without its filler, the filler, and the score or None."""
    tokens, start = case["sequences"][row][n], len(case["prompt"][row])
    ends = [t + 1 for t in range(start, len(tokens)) if tokens[t] in config.stop_ids]
    end = ends[0] if ends else len(tokens)
    return tokens[:end], tokens[end:], None if case["scores"] is None else case["scores"][row][n]


def never_alive(tokens, score, case, config):
    """Beams that were never alive start at -1e9, where float32 steps by 64: transformers has no order among them."""
    if score is None:
        return False
    generated = max(1, len(tokens) - len(case["prompt"][0]))
    return score * generated**config.length_penalty < -1e8


@pytest.mark.parametrize("number", ALL_SETS)
def test_generate_matches_transformers(number):
    for case, config, table, prompt, mask in cases(number):
        definition, params, _ = split(StateDecoder(table))
        source = np.arange(ROWS, dtype=np.int32)[:, None]
        out = generate(definition, params, source, prompt=prompt, prompt_mask=mask, config=config)
        out = jax.device_get(out)
        compared = 0
        for row in range(ROWS):
            for n in range(config.num_return_sequences):
                tokens, filler, score = expected(case, row, n, config)
                if never_alive(tokens, score, case, config):
                    continue
                got, end = out.tokens[row, n], out.lengths[row, n]
                assert got[:end].tolist() == tokens
                assert out.finished[row, n] == (tokens[-1] in config.stop_ids)
                assert (got[end:] == config.filler).all()
                # transformers' beam search takes pad id 0 for unset; elsewhere the fillers agree too
                if config.num_beams == 1 or config.pad_token_id != 0:
                    assert got[end : end + len(filler)].tolist() == filler
                if score is not None:
                    np.testing.assert_allclose(out.scores[row, n], score, atol=1e-5, rtol=1e-5)
                compared += 1
        assert compared >= ROWS


@pytest.mark.parametrize("number", ALL_SETS)
def test_reference_matches_transformers(number):
    """The plain NumPy restatement, which other tests rely on, is right."""
    for case, config, table, prompt, mask in cases(number):
        search = reference.greedy if config.num_beams == 1 else reference.beam_search
        for row in range(ROWS):
            logits = reference.table_logits(table, row, mask[row].tolist())
            found = search(logits, prompt[row].tolist(), config, padding=int((~mask[row]).sum()))
            for n, (tokens, score) in enumerate([found] if config.num_beams == 1 else found):
                told, _, told_score = expected(case, row, n, config)
                if not never_alive(told, told_score, case, config):
                    assert tokens == told
                    if told_score is not None:
                        np.testing.assert_allclose(score, told_score, atol=1e-5, rtol=1e-5)


def test_covers_every_option():
    """Each processor in several sets, with beams and without; prompts padded to a bucket; enough cases."""
    sets = GOLDEN["sets"]
    assert sum(len(each["cases"]) for each in sets) >= 500
    for name in (
        "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "forced_bos_token_id",
        "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "renormalize_logits",
    ):  # fmt: skip
        beams = [each["options"]["num_beams"] for each in sets if name in each["options"]]
        assert sum(k > 1 for k in beams) >= 3, name
        assert 1 in beams or name == "renormalize_logits", name  # which changes no order of one row's tokens
    lengths = {len(case["prompt"][0]) for each in sets for case in each["cases"]}
    assert {1, 2, 3, 9} <= lengths  # 9 shares its program with 10
    asked = {name for each in sets for case in each["cases"] for name in case["lengths"]}
    assert asked == {"max_length", "max_new_tokens", "min_length", "min_new_tokens"}
