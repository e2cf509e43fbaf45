"""Streaming gives out what `generate` writes, chunk by chunk, from two programs."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.decoding.decoders import SlotDecoder, make_table
from tests.decoding.test_generate import STEPS, CountingDecoder, compilations
from tests.decoding.test_models import case, parts
from vitjax.decoding import GenerationConfig, generate, stream
from vitjax.nn.functional import split

STOPS = (2, 4)
TABLE = make_table(3, 10, stops=STOPS)
GREEDY = GenerationConfig(max_new_tokens=20, eos_token_id=STOPS, pad_token_id=0, decoder_start_token_id=1)
SAMPLE = replace(GREEDY, do_sample=True, num_return_sequences=2, top_p=0.9)
KEY = jax.random.key(0)


def sources(rows=6):
    return np.arange(rows, dtype=np.int32)[:, None]


def expected(out, prompt=1):
    return np.asarray(out.tokens)[:, :, prompt : prompt + int(out.steps)]


@pytest.mark.parametrize(("config", "key"), [(GREEDY, None), (SAMPLE, KEY)])
def test_joined_chunks_are_what_generate_writes(config, key):
    definition, params, _ = split(SlotDecoder(TABLE))
    whole = expected(generate(definition, params, sources(), config=config, key=key))
    for size in (1, 3, 100):
        chunks = list(stream(definition, params, sources(), config=config, key=key, chunk_size=size))
        assert [chunk.shape[-1] for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
        assert 1 <= chunks[-1].shape[-1] <= size
        assert all(chunk.dtype == np.int32 for chunk in chunks)
        np.testing.assert_array_equal(np.concatenate(chunks, axis=-1), whole)
    # all sequences ended before the last token that was allowed, so the loop was left
    assert whole.shape[-1] < 20


def test_three_programs_and_then_nothing():
    definition, params, _ = split(SlotDecoder(TABLE))

    def run(rows=7, **options):
        config = replace(SAMPLE, **{"eos_token_id": None, **options})
        given = stream(definition, params, sources(rows), config=config, key=KEY, batch_size=8, chunk_size=4)
        return [chunk.shape for chunk in given]

    jax.clear_caches()
    with compilations() as names:
        assert run() == [(7, 2, 4)] * 5
    assert len(names) == 3, names
    with compilations() as names:
        assert run(rows=5, max_new_tokens=9, temperature=0.5) == [(5, 2, 4), (5, 2, 4), (5, 2, 1)]
    assert names == []


def test_real_models_and_prompts():
    definition, params = parts("image learned")
    given = case("image learned", 0)
    options = dict(
        prompt=given.prompt,
        prompt_mask=given.prompt_mask,
        config=replace(SAMPLE, eos_token_id=2, max_new_tokens=12),
        key=KEY,
    )
    whole = expected(generate(definition, params, given.source, **options), prompt=3)
    chunks = list(stream(definition, params, given.source, chunk_size=5, **options))
    assert len(chunks) == 3
    np.testing.assert_array_equal(np.concatenate(chunks, axis=-1), whole)


def test_nothing_is_written_ahead():
    definition, params, _ = split(CountingDecoder(make_table(3, 11)))
    config = replace(GREEDY, eos_token_id=None)
    STEPS.clear()
    chunks = stream(definition, params, sources(), config=config, chunk_size=5)
    for count in (4, 9, 14):
        assert next(chunks).shape == (6, 1, 5)
        jax.effects_barrier()
        assert len(STEPS) == count  # the prompt gave the first token


def test_the_one_token_of_a_prompt_needs_no_step():
    definition, params, _ = split(SlotDecoder(TABLE))
    (chunk,) = stream(definition, params, sources(), config=replace(GREEDY, max_new_tokens=1))
    assert chunk.shape == (6, 1, 1)


@pytest.mark.parametrize(
    ("options", "given", "match"),
    [
        ({"num_beams": 2}, {}, "may change its tokens until the end"),
        ({"rules": "t5x"}, {}, "leave rules out"),
        ({}, {"chunk_size": 0}, "1 or more"),
        ({}, {"key": KEY}, "a key was given"),
        ({"do_sample": True}, {}, "needs a key"),
        ({"max_length": 1, "max_new_tokens": None}, {}, "no room"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_token(options, given, match):
    definition, params, _ = split(SlotDecoder(TABLE))
    with pytest.raises(ValueError, match=match):
        stream(definition, params, sources(), config=replace(GREEDY, **options), **given)
