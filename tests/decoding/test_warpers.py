"""What is drawn from is what transformers draws from (golden/warpers.json)."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding.test_generate import compilations
from vitjax.decoding import GenerationConfig
from vitjax.decoding.warpers import Warpers, draw, warp

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "warpers.json").read_text())["cases"]
OPTIONS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def table(rows):
    return np.array([[-np.inf if v is None else v for v in row] for row in rows], np.float32)


def test_the_golden_cases_have_every_option_and_much_is_filtered():
    for name in OPTIONS:
        assert sum(name in case["options"] for case in GOLDEN) >= 30
    kept = [np.isfinite(table(case["filtered"])).mean() for case in GOLDEN]
    assert np.mean(np.array(kept) < 0.5) > 0.4


run = jax.jit(warp)
SIZE = 130
# Numbers with which a rule leaves everything, so that one program serves all cases.
IDLE = Warpers(np.float32(1), np.int32(SIZE), *(np.float32(number) for number in (-1, 0, 2, 0, 0)))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: "-".join(case["options"]))
def test_filtered_logits_are_those_of_transformers(case):
    warpers = Warpers.of(GenerationConfig(do_sample=True, **case["options"]))
    warpers = Warpers(*(idle if given is None else given for idle, given in zip(IDLE, warpers, strict=True)))
    logits, expected = table(case["logits"]), table(case["filtered"])
    size = logits.shape[1]
    out = np.asarray(run(np.pad(logits, ((0, 0), (0, SIZE - size)), constant_values=-np.inf), warpers))
    assert (out[:, size:] == -np.inf).all()
    out = out[:, :size]
    np.testing.assert_allclose(np.sort(out), np.sort(expected), atol=1e-5, rtol=1e-6)
    # Which of several equal tokens top-p keeps is left to torch's sort, which is not stable.
    for row, other in zip(*np.broadcast_arrays(out, expected), strict=True):
        elsewhere = np.isfinite(row) != np.isfinite(other)
        assert len(set(np.maximum(row, other)[elsewhere])) <= 1
        np.testing.assert_allclose(row[~elsewhere], other[~elsewhere], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("rule", Warpers._fields)
def test_a_rule_alone_is_that_rule_among_idle_ones(rule):
    options = dict(
        temperature=0.3, top_k=4, top_p=0.7, min_p=0.1, typical_p=0.6, epsilon_cutoff=0.02, eta_cutoff=0.3
    )
    logits = np.random.default_rng(0).standard_normal((2, SIZE)).astype(np.float32) * 2
    number = getattr(Warpers.of(GenerationConfig(do_sample=True, **options)), rule)
    alone = run(logits, Warpers(**{rule: number}))
    np.testing.assert_allclose(alone, run(logits, IDLE._replace(**{rule: number})), atol=1e-6)
    assert (np.asarray(alone) != logits).any()


def test_beams_and_loops_change_nothing():
    random = np.random.default_rng(0)
    logits = random.standard_normal((3, 4, 200)).astype(np.float32) * 3
    warpers = Warpers.of(GenerationConfig(do_sample=True, top_k=20, top_p=0.8, min_p=0.01, typical_p=0.9))

    def body(n, out):
        return out.at[:, n].set(warp(jnp.asarray(logits), warpers)[:, n])

    looped = jax.jit(lambda: jax.lax.fori_loop(0, 4, body, jnp.zeros_like(logits)))()
    alone = jnp.stack([run(jnp.asarray(row), warpers) for row in logits])
    np.testing.assert_array_equal(looped, alone)
    assert (jnp.sum(jnp.isfinite(alone), axis=-1) > 1).all()


def test_new_numbers_compile_nothing():
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=5, top_p=0.9)
    logits = np.zeros((2, 8), np.float32)
    run(logits, Warpers.of(config))
    with compilations() as names:
        run(logits, Warpers.of(dataclasses.replace(config, temperature=1.4, top_k=3, top_p=0.2)))
    assert names == []


def test_off_is_off():
    plain = dict(top_k=0, temperature=1.0, top_p=1.0, typical_p=1.0)
    assert Warpers.of(GenerationConfig(do_sample=True, **plain)) == Warpers(temperature=1.0)
    assert Warpers.of(GenerationConfig(temperature=0.3, top_p=0.5)) == Warpers()
    assert Warpers.of(GenerationConfig(do_sample=True)) == Warpers(temperature=1.0, top_k=50)


@pytest.mark.parametrize("size", [3, 64, 65, 1000])
def test_every_token_gets_its_part_of_the_numbers(size):
    random = np.random.default_rng(size)
    weights = random.random((2, size)).astype(np.float32) * (random.random((2, size)) < 0.5)
    weights[:, size // 2] = 1.0
    count = 20_000
    numbers = (np.arange(count, dtype=np.float32) + 0.5) / count
    tokens = jax.jit(jax.vmap(draw, (None, 0)))(weights, np.stack([numbers, numbers], axis=-1))
    for row in range(2):
        got = np.bincount(tokens[:, row], minlength=size)
        expected = weights[row] / weights[row].sum() * count
        assert np.abs(got - expected).max() <= 1.05
        assert not got[weights[row] == 0].any()
        assert (np.diff(tokens[:, row]) >= 0).all()


def test_the_ends_of_the_numbers_draw_the_first_and_the_last_token():
    weights = jnp.zeros((3, 300)).at[:, [70, 71, 200]].set(jnp.array([1e-30, 3.0, 1e-7]))
    highest = np.nextafter(np.float32(1), np.float32(0))
    first, middle, last = draw(weights, jnp.array([0, 0.5, highest])).tolist()
    assert (first, middle) == (70, 71) and last in (71, 200)
