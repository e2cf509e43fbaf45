"""Greedy decoding: the likeliest token, each time (transformers 5 `_sample` with `do_sample=False`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding import loop
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.processors import process
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.sequences import Sequences


class _State(NamedTuple):
    cache: Any
    length: Int[Array, ""]
    tokens: Int[Array, "B T"]
    log_probs: Float[Array, "B T"]
    lengths: Int[Array, "B"]
    done: Bool[Array, "B"]


def greedy(
    model: SequenceModel,
    encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
) -> Sequences:
    """Decode with one beam a row; traceable, so usable inside your own `jax.jit`.

    Returns `Sequences` with N = 1 and T = the maximum length. Where tokens tie, the lowest id wins.
    """
    batch, prompt_length = prompt.shape
    limits = config.limits(prompt_length)
    stop_ids = jnp.asarray(config.stop_ids, jnp.int32)

    def choose(state: _State, logits: Float[Array, "B V"]) -> _State:
        logits = logits.astype(jnp.float32)
        # The choice is made on logits: log-softmax can round two of them to the same number.
        token = jnp.argmax(process(logits, state.length, config=config, limits=limits), axis=-1).astype(
            jnp.int32
        )
        log_probs = process(jax.nn.log_softmax(logits), state.length, config=config, limits=limits)
        log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
        token = jnp.where(state.done, config.filler, token)
        log_prob = jnp.where(state.done, 0.0, log_prob)
        start = (0, state.length)
        return state._replace(
            length=state.length + 1,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token[:, None], start),
            log_probs=jax.lax.dynamic_update_slice(state.log_probs, log_prob[:, None], start),
            lengths=state.lengths + ~state.done,
            done=state.done | jnp.isin(token, stop_ids),
        )

    def advance(state: _State, read_length: int) -> _State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.length - 1, 1, axis=1)  # [B, 1]
        logits, cache = model.step(state.cache, last, read_length=read_length)
        return choose(state._replace(cache=cache), logits[:, 0])

    cache = model.init_cache(encoded, num_beams=1, max_length=limits.maximum)
    logits, cache = model.prefill(cache, prompt, prompt_mask)
    state = _State(
        cache=cache,
        length=jnp.int32(prompt_length),
        tokens=jnp.full((batch, limits.maximum), config.filler, jnp.int32).at[:, :prompt_length].set(prompt),
        log_probs=jnp.zeros((batch, limits.maximum), jnp.float32),
        lengths=jnp.full(batch, prompt_length, jnp.int32),
        done=jnp.zeros(batch, bool),
    )
    state = choose(state, logits)
    state = loop.run(advance, state, prompt_length=prompt_length, max_length=limits.maximum)
    generated = (state.lengths - prompt_length).astype(jnp.float32)
    return Sequences(
        tokens=state.tokens[:, None],
        scores=(jnp.sum(state.log_probs, axis=-1) / generated**config.length_penalty)[:, None],
        lengths=state.lengths[:, None],
        token_log_probs=state.log_probs[:, None],
    )
