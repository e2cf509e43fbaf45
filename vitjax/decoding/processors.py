"""Rules that forbid, force or punish tokens, applied to the scores of the next token.

What an option costs, it costs only where it is set: at most 0.2 ms a step for 8 x 5 beams of 8,000 tokens on one CPU
core (benchmarks/NOTES.md).
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding.config import GenerationConfig, Limits


def process(
    scores: Float[Array, "B K V"],
    tokens: Int[Array, "B K T"],
    length: Int[Array, ""],
    *,
    config: GenerationConfig,
    limits: Limits,
    prompt_mask: Bool[Array, "B P"] | None = None,
    allowed: Bool[Array, "B K V"] | None = None,
) -> Float[Array, "B K V"]:
    """Apply the config's rules, in transformers' order, for the token at column `length` of `tokens`.

    Forbidden tokens become -inf and a forced one 0; nothing is renormalised unless `renormalize_logits` asks. Beam
    search passes log-probabilities, greedy decoding and sampling logits (transformers 5,
    `generation/logits_process.py`).

    Args:
      tokens: what was written so far; columns from `length` on are filler, the first `limits.padding` hold -1.
      prompt_mask: True where the prompt is real. Only the repetition penalty heeds it; n-grams and bad words are also
        looked for in the padding, as in transformers.
      allowed: the tokens to choose from. Where the rules before it leave none of them to any beam of a row, they all
        score 0, as in transformers.

    Raises:
      ValueError: `bad_words_ids` or a forced token is not in the vocabulary.
    """
    vocabulary = scores.shape[-1]
    forced_bos, forced_eos = config.forced_bos_token_id, config.forced_ids
    named = [token for word in config.bad_words_ids or () for token in word]
    _require_known("bad_words_ids", named, vocabulary)
    _require_known("forced_bos_token_id", () if forced_bos is None else (forced_bos,), vocabulary)
    _require_known("forced_eos_token_id", forced_eos, vocabulary)
    if config.repetition_penalty != 1.0:
        first = limits.padding if prompt_mask is None else jnp.argmax(prompt_mask, axis=1)[:, None, None]
        seen = _marked(_written(tokens, length, vocabulary, first=first), vocabulary)
        penalty = config.repetition_penalty
        scores = jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)
    if 0 < config.no_repeat_ngram_size <= tokens.shape[-1]:
        repeats = _repeats(tokens, length, config.no_repeat_ngram_size, vocabulary)
        scores = jnp.where(_marked(repeats, vocabulary), -jnp.inf, scores)
    if config.bad_words_ids:
        scores = _without_bad_words(scores, tokens, length, config)
    if config.stop_ids:
        scores = jnp.where(_mask(config.stop_ids, vocabulary) & (length < limits.minimum), -jnp.inf, scores)
    if allowed is not None:
        left = jnp.where(allowed, scores, -jnp.inf)
        none = jnp.all(left == -jnp.inf, axis=(1, 2), keepdims=True)
        scores = jnp.where(none & allowed, 0.0, left)
    if forced_bos is not None:
        scores = jnp.where(length - limits.padding == 1, _only((forced_bos,), vocabulary), scores)
    if forced_eos:
        scores = jnp.where(length == limits.maximum - 1, _only(forced_eos, vocabulary), scores)
    if config.suppress_tokens:
        scores = jnp.where(_mask(config.suppress_tokens, vocabulary), -jnp.inf, scores)
    if config.begin_suppress_tokens:
        forced = (limits.prompt - limits.padding == 1) & (forced_bos is not None)
        begins = length == limits.prompt + jnp.where(forced, 1, 0)
        scores = jnp.where(_mask(config.begin_suppress_tokens, vocabulary) & begins, -jnp.inf, scores)
    if config.renormalize_logits:
        possible = jnp.any(scores > -jnp.inf, axis=-1, keepdims=True)
        scores = jnp.where(possible, jax.nn.log_softmax(scores), scores)
    return scores


def _require_known(option: str, tokens: Iterable[int], vocabulary: int) -> None:
    unknown = [token for token in tokens if token >= vocabulary]
    if unknown:
        raise ValueError(f"{option} names {unknown[0]}, but the ids of this model end at {vocabulary - 1}")


def _mask(tokens: Iterable[int], vocabulary: int) -> Bool[np.ndarray, "V"]:
    """True at the given ids; those outside the vocabulary are ignored."""
    return np.isin(np.arange(vocabulary), list(tokens))


def _only(tokens: Iterable[int], vocabulary: int) -> Float[np.ndarray, "V"]:
    return np.where(_mask(tokens, vocabulary), np.float32(0), np.float32(-np.inf))


def _written(
    tokens: Int[Array, "B K T"], length: Int[Array, ""], vocabulary: int, *, first: int | Array
) -> Int[Array, "B K T"]:
    """The tokens from column `first` to `length`; elsewhere, and for -1, an id that does not exist."""
    columns = jnp.arange(tokens.shape[-1])
    return jnp.where((columns >= first) & (columns < length) & (tokens >= 0), tokens, vocabulary)


def _marked(tokens: Int[Array, "B K N"], vocabulary: int) -> Bool[Array, "B K V"]:
    """True at the tokens of each beam; ids from V on are left out. By `vmap`, so that no sharded batch is gathered."""

    def mark(tokens: Array) -> Array:
        return jnp.zeros(vocabulary, bool).at[tokens].set(True, mode="drop")

    return jax.vmap(jax.vmap(mark))(tokens)


def _repeats(
    tokens: Int[Array, "B K T"], length: Int[Array, ""], size: int, vocabulary: int
) -> Int[Array, "B K N"]:
    """Ids that would end an n-gram of this size that was there before; V where there is none."""
    before = size - 1
    windows = tokens.shape[-1] - before  # window i has its last token in column i + before
    last = _written(tokens, length, vocabulary, first=0)[:, :, before:]
    # While the sequence is shorter than that no window is complete, whatever is read here.
    recent = jax.lax.dynamic_slice_in_dim(tokens, length - before, before, axis=2)
    same = jnp.ones(last.shape, bool)
    for i in range(before):
        same &= tokens[:, :, i : i + windows] == recent[:, :, i, None]
    return jnp.where(same, last, vocabulary)


def _without_bad_words(
    scores: Float[Array, "B K V"],
    tokens: Int[Array, "B K T"],
    length: Int[Array, ""],
    config: GenerationConfig,
) -> Float[Array, "B K V"]:
    vocabulary = scores.shape[-1]
    words = [tuple(word) for word in config.bad_words_ids or ()]
    alone = {word[0] for word in words if len(word) == 1} - set(config.stop_ids)
    scores = jnp.where(_mask(alone, vocabulary), -jnp.inf, scores)
    for size in sorted({len(word) for word in words} - {1}):
        group = np.asarray([word for word in words if len(word) == size])  # [W, size]
        before = size - 1
        if before > tokens.shape[-1]:
            continue
        recent = jax.lax.dynamic_slice_in_dim(tokens, length - before, before, axis=2)
        begun = jnp.all(recent[:, :, None] == group[:, :-1], axis=-1) & (length >= before)  # [B, K, W]
        scores = jnp.where(_marked(jnp.where(begun, group[:, -1], vocabulary), vocabulary), -jnp.inf, scores)
    return scores
