"""Greedy decoding: the likeliest token, each time (transformers 5 `_sample` with `do_sample=False`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding import loop
from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.processors import process
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.sequences import Sequences


class _State(NamedTuple):
    cache: Any
    length: Int[Array, ""]
    tokens: Int[Array, "B K T"]
    log_probs: Float[Array, "B K T"]
    lengths: Int[Array, "B K"]
    ended: Bool[Array, "B K"]

    @property
    def done(self) -> Bool[Array, "B"]:
        return jnp.all(self.ended, axis=1)


def greedy(
    model: SequenceModel,
    encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
    limits: Limits | None = None,
    rows: Int[Array, ""] | None = None,
) -> Sequences:
    """Decode with one beam a row; traceable, so usable inside your own `jax.jit`. Arguments as in `beam_search`.

    Returns `Sequences` with N = 1 and T = `limits.size`. Where tokens tie, the lowest id wins.
    """
    batch, prompt_length = prompt.shape
    if limits is None:
        limits = config.limits(prompt_length)
        limits.require_room(model.max_target_length)
    stop_ids = jnp.asarray(config.stop_ids, jnp.int32)

    def choose(state: _State, logits: Float[Array, "B K V"]) -> _State:
        def processed(scores: Array) -> Array:
            return process(
                scores, state.tokens, state.length, config=config, limits=limits, prompt_mask=prompt_mask
            )

        logits = logits.astype(jnp.float32)
        # The choice is made on logits: log-softmax can round two of them to the same number.
        token = jnp.argmax(processed(logits), axis=-1, keepdims=True).astype(jnp.int32)
        log_prob = jnp.take_along_axis(processed(jax.nn.log_softmax(logits)), token, axis=-1)
        ended = state.ended[:, :, None]
        token = jnp.where(ended, config.filler, token)
        log_prob = jnp.where(ended, 0.0, log_prob)
        start = (0, 0, state.length)
        return state._replace(
            length=state.length + 1,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token, start),
            log_probs=jax.lax.dynamic_update_slice(state.log_probs, log_prob, start),
            lengths=state.lengths + ~state.ended,
            ended=state.ended | jnp.isin(token[:, :, 0], stop_ids),
        )

    model = model.prepared()

    def advance(state: _State, read_length: int) -> _State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.length - 1, 1, axis=2)[:, :, 0]  # [B, K]
        logits, cache = model.step(state.cache, last, read_length=read_length)
        return choose(state._replace(cache=cache), logits)

    cache = model.init_cache(encoded, num_beams=1, max_length=limits.size, dtype=config.cache_dtype)
    logits, cache = model.prefill(cache, prompt, prompt_mask)
    blank = jnp.full((batch, 1, limits.size), config.filler, jnp.int32)
    filling = jnp.arange(batch) >= (batch if rows is None else rows)
    state = _State(
        cache=cache,
        length=jnp.int32(prompt_length),
        tokens=blank.at[:, :, :prompt_length].set(prompt[:, None]),
        log_probs=jnp.zeros(blank.shape, jnp.float32),
        lengths=jnp.full((batch, 1), prompt_length, jnp.int32),
        ended=filling[:, None],
    )
    state = choose(state, logits[:, None])
    state = loop.run(advance, state, limits)
    generated = jnp.maximum(state.lengths - prompt_length, 1).astype(jnp.float32)
    last = jnp.take_along_axis(state.tokens, state.lengths[:, :, None] - 1, axis=2)[:, :, 0]
    return Sequences(
        tokens=state.tokens,
        scores=jnp.sum(state.log_probs, axis=-1) / generated**config.length_penalty,
        lengths=state.lengths,
        token_log_probs=state.log_probs,
        finished=jnp.isin(last, stop_ids),
        steps=state.length - prompt_length,
    )
