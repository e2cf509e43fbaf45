"""The processors alone, against their restatement; tests/golden holds them against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding import reference
from vitjax.decoding import GenerationConfig
from vitjax.decoding.config import Limits
from vitjax.decoding.processors import process

BATCH, BEAMS, VOCABULARY, PROMPT, SIZE = 4, 3, 6, 4, 20
RULES = {
    "nothing": {},
    "repetition": {"repetition_penalty": 1.5},
    "encouraged": {"repetition_penalty": 0.7},
    "ngrams of 1": {"no_repeat_ngram_size": 1},
    "ngrams of 2": {"no_repeat_ngram_size": 2},
    "ngrams of 4": {"no_repeat_ngram_size": 4},
    "ngrams too long": {"no_repeat_ngram_size": 40},
    "bad words": {"bad_words_ids": [[5], [3], [0, 1], [1, 1, 2], [4, 3], [2, 2, 2, 2], [1] * 30], "eos_token_id": 3},
    "suppressed": {"suppress_tokens": [1, 4, 99], "begin_suppress_tokens": [2]},
    "forced": {"forced_bos_token_id": 1, "forced_eos_token_id": [2, 3], "begin_suppress_tokens": [5]},
    "renormalized": {"renormalize_logits": True, "bad_words_ids": [[5], [0, 1]], "no_repeat_ngram_size": 1},
    "all": {
        "repetition_penalty": 2.0,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[1, 2], [4]],
        "eos_token_id": (2, 3),
        "forced_bos_token_id": 2,
        "forced_eos_token_id": 3,
        "suppress_tokens": [0],
        "begin_suppress_tokens": [5],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_matches_the_restatement(name):
    """At every length, behind every number of columns that only fill a bucket, with prompts padded on the left."""
    random = np.random.default_rng(len(name))
    rules = GenerationConfig(**RULES[name])

    @jax.jit
    def run(scores, tokens, length, mask, numbers):
        padding, minimum, maximum = numbers
        limits = Limits(PROMPT, SIZE, padding, minimum, maximum)
        return process(scores, tokens, length, config=rules, limits=limits, prompt_mask=mask)

    tokens = random.integers(0, VOCABULARY, (BATCH, BEAMS, SIZE)).astype(np.int32)
    for padding in range(PROMPT):
        prompt, new, least = PROMPT - padding, 10, int(random.integers(0, 8))
        tokens[:, :, :padding] = -1
        unreal = random.integers(0, prompt, BATCH)
        mask = np.arange(PROMPT) >= padding + unreal[:, None]
        config = GenerationConfig(**RULES[name], max_new_tokens=new, min_length=least)
        for length in range(PROMPT, PROMPT + new):
            scores = random.standard_normal((BATCH, BEAMS, VOCABULARY)).astype(np.float32)
            numbers = np.array([padding, least + padding, PROMPT + new], np.int32)
            out = np.asarray(run(scores, tokens, np.int32(length), mask, numbers))
            for b, k in np.ndindex(BATCH, BEAMS):
                written = tokens[b, k, padding:length].tolist()
                told = reference.processed(scores[b, k], written, config, prompt, int(unreal[b]))
                np.testing.assert_allclose(out[b, k], told, rtol=1e-6)


def test_without_a_mask_every_prompt_token_counts():
    config = GenerationConfig(repetition_penalty=2.0, max_new_tokens=3)
    tokens = jnp.array([[[-1, 0, 2, 5, 5]]])
    out = process(
        -jnp.ones((1, 1, 6)), tokens, jnp.int32(3), config=config, limits=Limits(3, 5, jnp.int32(1), 0, 5)
    )
    assert out.tolist() == [[[-2, -1, -2, -1, -1, -1]]]


@pytest.mark.parametrize(
    "option", [{"bad_words_ids": [[1, 6]]}, {"forced_bos_token_id": 6}, {"forced_eos_token_id": 6}]
)
def test_ids_that_the_model_does_not_have(option):
    config = GenerationConfig(**option)
    with pytest.raises(ValueError, match=f"{next(iter(option))} names 6, but the ids of this model end at 5"):
        process(
            jnp.zeros((1, 1, 6)),
            jnp.ones((1, 1, 9), int),
            jnp.int32(1),
            config=config,
            limits=config.limits(1),
        )
