"""Batched beam search by the rules of transformers 5.x `GenerationMixin._beam_search`.

Each row keeps K running beams and a pool of up to K finished hypotheses. What a row returns does not depend on the
other rows of its batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding import loop
from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.processors import process
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.top_k import top_k

# transformers' minus infinity: finite, so that hypotheses to which it was added keep their order.
NEVER = -1e9


class _Pool(NamedTuple):
    """Finished hypotheses, best first; the empty places score NEVER."""

    tokens: Int[Array, "B K T"]
    scores: Float[Array, "B K"]
    lengths: Int[Array, "B K"]
    log_probs: Float[Array, "B K T"]
    stopped: Bool[Array, "B K"]  # by EOS, not by the maximum length


class _State(NamedTuple):
    cache: Any
    length: Int[Array, ""]
    tokens: Int[Array, "B K T"]
    log_probs: Float[Array, "B K T"]
    scores: Float[Array, "B K"]  # sums of log-probabilities, best first
    pool: _Pool
    full: Bool[Array, "B"]  # the pool holds K finished hypotheses
    improvable: Bool[Array, "B"]  # never true again once false
    done: Bool[Array, "B"]


def beam_search(
    model: SequenceModel,
    encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
    limits: Limits | None = None,
    rows: Int[Array, ""] | None = None,
) -> Sequences:
    """Search with `config.num_beams` beams a row; traceable, so usable inside your own `jax.jit`.

    Args:
      prompt: first tokens of each row, left-padded where `prompt_mask` is False.
      limits: the buffer's columns, if they are not what `config` says for this prompt.
      rows: number of real rows; those after it only fill the batch up and are never waited for.

    Returns:
      `Sequences` with N = `num_return_sequences` and T = `limits.size`. Ties go to the better-ranked beam, then to the
      lowest id.

    Raises:
      ValueError: the vocabulary is too small for the number of EOS ids.
    """
    batch, prompt_length = prompt.shape
    if limits is None:
        limits = config.limits(prompt_length)
        limits.require_room(model.max_target_length)
    beams = config.num_beams
    blank = jnp.full((batch, beams, limits.size), config.filler, jnp.int32)
    blank = blank.at[:, :, :prompt_length].set(prompt[:, None])
    zeros = jnp.zeros((batch, beams, limits.size), jnp.float32)

    model = model.prepared()

    def advance(state: _State, read_length: int) -> _State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.length - 1, 1, axis=2)[:, :, 0]  # [B, K]
        logits, cache = model.step(state.cache, last, read_length=read_length)
        return _choose(state._replace(cache=cache), logits, config, limits, prompt_mask)

    cache = model.init_cache(encoded, num_beams=beams, max_length=limits.size, dtype=config.cache_dtype)
    logits, cache = model.prefill(cache, prompt, prompt_mask)
    if logits.shape[-1] < _width(config):
        raise ValueError(
            f"a vocabulary of {logits.shape[-1]} with {len(config.stop_ids)} EOS ids can leave no beam to go on with: "
            f"expected {_width(config)} tokens or more"
        )
    state = _State(
        cache=cache,
        length=jnp.int32(prompt_length),
        tokens=blank,
        log_probs=zeros,
        # All beams still stand at the same prompt: only the first may be continued.
        scores=jnp.full((batch, beams), NEVER, jnp.float32).at[:, 0].set(0.0),
        pool=_Pool(
            tokens=blank,
            scores=jnp.full((batch, beams), NEVER, jnp.float32),
            lengths=jnp.full((batch, beams), prompt_length, jnp.int32),
            log_probs=zeros,
            stopped=jnp.zeros((batch, beams), bool),
        ),
        full=jnp.zeros(batch, bool),
        improvable=jnp.ones(batch, bool),
        done=jnp.arange(batch) >= (batch if rows is None else rows),
    )
    logits = jnp.broadcast_to(logits[:, None], (batch, beams, logits.shape[-1]))
    state = _choose(state, logits, config, limits, prompt_mask)
    state = loop.run(advance, state, limits)
    best = jax.tree.map(lambda leaf: leaf[:, : config.num_return_sequences], state.pool)
    return Sequences(
        tokens=best.tokens,
        scores=best.scores,
        lengths=best.lengths,
        token_log_probs=best.log_probs,
        finished=best.stopped,
        steps=state.length - prompt_length,
    )


def _choose(
    state: _State,
    logits: Float[Array, "B K V"],
    config: GenerationConfig,
    limits: Limits,
    prompt_mask: Bool[Array, "B P"] | None,
) -> _State:
    """Extend every beam by every token, keep the K best that go on, and let those that ended into the pool."""
    beams, vocabulary = logits.shape[1:]
    length = state.length + 1
    generated = length - limits.prompt
    # n**penalty for n = 1, 2, ...: in double precision on the host, as transformers does.
    powers = np.arange(1, limits.size - limits.prompt + 1) ** float(config.length_penalty)
    divisors = jnp.asarray(powers, jnp.float32)
    divisor = divisors[generated - 1]

    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_probs = process(  # [B, K, V]
        log_probs, state.tokens, state.length, config=config, limits=limits, prompt_mask=prompt_mask
    )
    totals = (log_probs + state.scores[:, :, None]).reshape(-1, beams * vocabulary)
    # Even if every EOS of the K beams is among them, K candidates remain that go on.
    candidates, index = top_k(totals, _width(config) * beams)  # [B, M]
    parents, tokens = index // vocabulary, index % vocabulary
    ended = jnp.isin(tokens, jnp.asarray(config.stop_ids, jnp.int32))
    stopped = ended | (length >= limits.maximum)
    log_probs = jnp.take_along_axis(log_probs.reshape(totals.shape), index, axis=-1)

    def extended(chosen: Int[Array, "B K"]) -> tuple[Array, ...]:
        """Tokens and their log-probabilities [B, K, T] of the chosen candidates."""
        start = (0, 0, state.length)
        beams = _take_beams(parents, chosen)
        return tuple(
            jax.lax.dynamic_update_slice(_take_beams(old, beams), _take_beams(new, chosen)[:, :, None], start)
            for old, new in ((state.tokens, tokens), (state.log_probs, log_probs))
        )

    # The best K that go on.
    scores, chosen = top_k(candidates + jnp.where(stopped, NEVER, 0.0), beams)
    running_tokens, running_log_probs = extended(chosen)

    # Only the first K candidates may finish; the others are there to go on in their place.
    stops_when_full = config.early_stopping is True
    frozen = ~state.improvable | (state.full & stops_when_full)
    enters = stopped[:, :beams] & ~frozen[:, None]
    first = jnp.broadcast_to(jnp.arange(beams), chosen.shape)
    finished_tokens, finished_log_probs = extended(first)
    finished = _Pool(
        tokens=finished_tokens,
        scores=jnp.where(enters, candidates[:, :beams] / divisor, -jnp.inf),
        lengths=jnp.full_like(state.pool.lengths, length),
        log_probs=finished_log_probs,
        stopped=ended[:, :beams],
    )
    merged = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), state.pool, finished)
    _, best = top_k(merged.scores, beams)
    pool = jax.tree.map(lambda leaf: _take_beams(leaf, best), merged)
    full = jnp.all(pool.lengths > limits.prompt, axis=1)

    # How good the best running beam can still become, against the worst of the pool.
    optimistic = config.early_stopping == "never" and config.length_penalty > 0
    possible = scores[:, 0] / (divisors[limits.maximum - limits.prompt - 1] if optimistic else divisor)
    improvable = state.improvable & (possible > pool.scores[:, -1])

    return _State(
        cache=state.cache.reorder(_take_beams(parents, chosen)),
        length=length,
        tokens=running_tokens,
        log_probs=running_log_probs,
        scores=scores,
        pool=pool,
        full=full,
        improvable=improvable,
        done=state.done | ~improvable | (full & stops_when_full),
    )


def _width(config: GenerationConfig) -> int:
    """Candidates kept for each beam."""
    return max(2, 1 + len(config.stop_ids))


def _take_beams(table: Array, beams: Int[Array, "B k"]) -> Array:
    """table [B, K, ...] -> [B, k, ...]. Not `table[batch, beams]`, which gathers a sharded batch on every device."""
    return jnp.take_along_axis(table, beams.reshape(*beams.shape, *[1] * (table.ndim - 2)), axis=1)
