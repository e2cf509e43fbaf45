"""Sizes that share a program give what they give alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding.decoders import SlotDecoder, make_table
from tests.decoding.test_generate import compilations
from tests.decoding.test_models import parts
from vitjax.decoding import GenerationConfig, encode, generate
from vitjax.decoding.beam_search import beam_search
from vitjax.decoding.buckets import bucket, pad_columns, pad_rows
from vitjax.decoding.sample import greedy
from vitjax.nn.functional import merge, split

STOPS = (2, 4)


@given(size=st.integers(1, 10_000), step=st.sampled_from([1, 8, 32]), limit=st.integers(1, 20_000))
def test_a_bucket_holds_its_size_and_wastes_a_quarter_at_most(size, step, limit):
    padded = bucket(size, step=step)
    assert padded >= size and padded % step == 0
    assert padded - size < max(step, size / 4)
    assert bucket(padded, step=step) == padded
    assert bucket(size + 1, step=step) >= padded
    assert bucket(size, step=step, limit=limit) == max(size, min(padded, limit))


def test_sizes():
    assert sorted({bucket(n) for n in range(1, 65)}) == [
        *range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64,
    ]  # fmt: skip
    assert sorted({bucket(n, step=32) for n in range(1, 600)}) == [
        32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640,
    ]  # fmt: skip


def test_padding():
    array = np.arange(6).reshape(2, 3)
    assert pad_rows(array, 4).tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [3, 4, 5]]
    assert pad_columns(array, 5, 7).tolist() == [[0, 1, 2, 7, 7], [3, 4, 5, 7, 7]]
    assert pad_columns(array, 5, 7, left=True).tolist() == [[7, 7, 0, 1, 2], [7, 7, 3, 4, 5]]
    assert pad_rows(array, 2) is array and pad_columns(array, 3, 7) is array


@pytest.mark.parametrize("beams", [1, 3])
def test_one_bucket_is_one_program(beams):
    definition, params, _ = split(SlotDecoder(make_table(3, 10, stops=STOPS, bias=1.0)))

    def run(rows, prompt, new, minimum=0, batch_size=None):
        config = GenerationConfig(
            num_beams=beams, max_new_tokens=new, min_new_tokens=minimum, eos_token_id=STOPS, pad_token_id=0
        )
        source = np.arange(rows, dtype=np.int32)[:, None]
        prompts = 1 + (np.arange(rows * prompt, dtype=np.int32) % 9).reshape(rows, prompt)
        out = generate(definition, params, source, prompt=prompts, config=config, batch_size=batch_size)
        assert out.tokens.shape == (rows, 1, prompt + new)
        return config, source, prompts, out

    run(12, 12, 10)
    with compilations() as names:
        results = [run(11, 11, 10), run(12, 11, 3), run(11, 12, 9, 5), run(3, 12, 9, batch_size=12)]
    assert names == []
    model = SlotDecoder(make_table(3, 10, stops=STOPS, bias=1.0))
    search = greedy if beams == 1 else beam_search
    for config, source, prompts, out in results:
        encoded = model.encode(source, train=False)
        alone = jax.jit(lambda e, p, config=config: search(model, e, p, config=config))(encoded, prompts)
        for name in ("tokens", "scores", "lengths", "token_log_probs", "finished", "steps"):
            np.testing.assert_array_equal(getattr(out, name), getattr(alone, name), err_msg=name)


@pytest.mark.parametrize("kind", ["text relative", "text rotary", "image learned", "image lstm"])
def test_models_do_not_see_the_padding(kind):
    definition, params = parts(kind)
    rows, length = 3, 9
    random = np.random.default_rng(0)
    if kind.startswith("image"):
        source = random.standard_normal((rows, 8, 8, 1)).astype(np.float32)
    else:
        source = random.integers(0, 12, (rows, length)).astype(np.int32)
    prompt = random.integers(1, 12, (rows, 9)).astype(np.int32)
    mask = np.arange(9) >= np.array([0, 3, 8])[:, None]
    config = GenerationConfig(num_beams=2, max_new_tokens=3, eos_token_id=2)
    out = generate(definition, params, source, prompt=prompt, prompt_mask=mask, config=config, batch_size=5)
    encoded = encode(definition, params, source)
    alone = beam_search(
        merge(definition, params), encoded, jnp.asarray(prompt), jnp.asarray(mask), config=config
    )
    np.testing.assert_array_equal(out.tokens, alone.tokens)
    np.testing.assert_allclose(out.scores, alone.scores, atol=1e-5)


def test_a_batch_that_is_too_small():
    definition, params, _ = split(SlotDecoder(make_table(3, 10)))
    config = GenerationConfig(decoder_start_token_id=1)
    with pytest.raises(ValueError, match="batch_size=2 is less than the 3 rows"):
        generate(definition, params, np.ones((3, 1), np.int32), config=config, batch_size=2)
