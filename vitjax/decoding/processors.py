"""Rules that forbid or force tokens, applied to the scores of the next token."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.decoding.config import GenerationConfig, Limits


def process(
    scores: Float[Array, "B K V"],
    tokens: Int[Array, "B K T"],
    length: Int[Array, ""],
    *,
    config: GenerationConfig,
    limits: Limits,
) -> Float[Array, "B K V"]:
    """Apply the config's rules, in transformers' order, for the token at column `length` of `tokens`.

    Forbidden tokens become -inf and a forced one 0; nothing is renormalised. Beam search passes log-probabilities,
    greedy decoding and sampling logits (transformers 5, `generation/logits_process.py`).

    Args:
      tokens: what was written so far; columns from `length` on are filler, the first `limits.padding` hold -1.
    """
    vocabulary = jnp.arange(scores.shape[-1])
    if config.stop_ids:
        stops = jnp.isin(vocabulary, jnp.asarray(config.stop_ids))
        scores = jnp.where(stops & (length < limits.minimum), -jnp.inf, scores)
    if config.forced_bos_token_id is not None:
        first = length - limits.padding == 1
        scores = jnp.where(first, _only(config.forced_bos_token_id, vocabulary), scores)
    if config.forced_eos_token_id is not None:
        last = length == limits.maximum - 1
        scores = jnp.where(last, _only(config.forced_eos_token_id, vocabulary), scores)
    return scores


def _only(token: int, vocabulary: Int[Array, "V"]) -> Float[Array, "V"]:
    return jnp.where(vocabulary == token, 0.0, -jnp.inf)
