"""Output restricted to given sequences: against transformers (golden/allowed.json) and against every one of them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding import reference
from tests.decoding.decoders import StateDecoder, make_table
from tests.decoding.test_generate import compilations
from vitjax.decoding import AllowedSequences, GenerationConfig, generate
from vitjax.nn.functional import split

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "allowed.json").read_text())
ROWS, VOCABULARY = GOLDEN["rows"], GOLDEN["vocabulary"]


def run(table, config, sequences, rows=ROWS, key=None):
    definition, params, _ = split(StateDecoder(table))
    source, prompt = np.arange(rows, dtype=np.int32)[:, None], np.ones((rows, 1), np.int32)
    allowed = AllowedSequences.of(sequences, eos_token_id=config.stop_ids)
    out = generate(definition, params, source, prompt=prompt, config=config, allowed=allowed, key=key)
    return jax.device_get(out)


@pytest.mark.parametrize("number", range(len(GOLDEN["sets"])))
def test_matches_transformers(number):
    config = GenerationConfig(**GOLDEN["sets"][number]["options"])
    compared = 0
    for case in GOLDEN["sets"][number]["cases"]:
        table = make_table(**case["table"], vocabulary=VOCABULARY, stops=config.stop_ids)
        out = run(table, config, case["allowed"])
        length = len(case["sequences"][0][0])
        for row in range(ROWS):
            for n in range(config.num_return_sequences):
                score = None if case["scores"] is None else case["scores"][row][n]
                if score is not None and score < -1e6:  # too few sequences for the beams
                    continue
                assert out.tokens[row, n, :length].tolist() == case["sequences"][row][n]
                if score is not None:
                    np.testing.assert_allclose(out.scores[row, n], score, atol=1e-5, rtol=1e-5)
                compared += 1
    assert compared >= ROWS * len(GOLDEN["sets"][number]["cases"])


SEQUENCES = [[3, 4], [3], [4, 4, 5], [6, 2], [5, 3, 3, 3], [3, 5, 2]]  # with 2, EOS, or without


def test_wide_enough_beams_find_every_sequence_in_order():
    config = GenerationConfig(num_beams=8, num_return_sequences=8, max_new_tokens=6, eos_token_id=2)
    table = make_table(1, 9)
    out = run(table, config, SEQUENCES)
    for row in range(ROWS):
        logits, scores = reference.table_logits(table, row), {}
        for sequence in SEQUENCES:
            tokens = [1]
            total = 0.0
            for token in [*(t for t in sequence if t != 2), 2]:
                total += float(reference.log_softmax(logits(tokens))[token])
                tokens.append(token)
            scores[tuple(tokens)] = total / (len(tokens) - 1)
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        got = [tuple(out.tokens[row, n, : out.lengths[row, n]].tolist()) for n in range(len(ranked))]
        assert got == ranked
        np.testing.assert_allclose(out.scores[row, : len(ranked)], [scores[s] for s in ranked], atol=1e-5)
        assert (out.scores[row, len(ranked) :] < -1e7).all()


def test_draws_and_another_set_of_nearly_the_same_size_compiles_nothing():
    config = GenerationConfig(do_sample=True, max_new_tokens=6, eos_token_id=2, num_return_sequences=3)
    first = run(make_table(1, 9), config, SEQUENCES, key=jax.random.key(0))
    others = [[t + 1 if t > 2 else t for t in sequence] for sequence in SEQUENCES]
    with compilations() as names:
        second = run(make_table(1, 9), config, others, key=jax.random.key(1))
    assert names == []
    for out, sequences in ((first, SEQUENCES), (second, others)):
        possible = {(1, *(t for t in sequence if t != 2), 2) for sequence in sequences}
        drawn = {tuple(out.tokens[b, n, : out.lengths[b, n]].tolist()) for b, n in np.ndindex(ROWS, 3)}
        assert drawn <= possible and len(drawn) > 1


def test_wide_and_narrow_nodes():
    """The root has more children than are looked at together."""
    random = np.random.default_rng(0)
    sequences = {tuple(s) for s in random.integers(3, 300, (400, 3)).tolist()}
    tree = AllowedSequences.of(sequences, eos_token_id=(1, 2))
    some = random.permutation(sorted(sequences))[:6].reshape(2, 3, 3)
    nodes = jnp.zeros((2, 3), int)
    for depth in range(4):
        mask = np.asarray(tree.mask(nodes, 300))
        for b, k in np.ndindex(2, 3):
            begin = tuple(some[b, k, :depth].tolist())
            told = {s[depth] for s in sequences if s[:depth] == begin} if depth < 3 else {1, 2}
            assert set(np.flatnonzero(mask[b, k]).tolist()) == told
        if depth < 3:
            nodes = tree.follow(nodes, jnp.asarray(some[:, :, depth]))
    lost = tree.follow(jnp.zeros((1, 2), int), jnp.array([[0, 299_999]]))
    assert np.flatnonzero(np.asarray(tree.mask(lost, 300))[0, 0]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("sequences", "told"),
    [([[3], []], "allowed sequence"), ([[3, 2, 3]], "EOS"), ([[-1]], "0 or more"), ([], "one")],
)
def test_sets_that_make_no_sense(sequences, told):
    with pytest.raises(ValueError, match=told):
        AllowedSequences.of(sequences, eos_token_id=2)
