"""Rules that forbid or force tokens, applied to the scores of the next token."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.decoding.config import GenerationConfig, LengthLimits


def process(
    scores: Float[Array, "*B V"], length: Int[Array, ""], *, config: GenerationConfig, limits: LengthLimits
) -> Float[Array, "*B V"]:
    """Apply the config's rules, in transformers' order, for the token at position `length` (prompt included).

    Forbidden tokens become -inf and a forced one 0; nothing is renormalised. Beam search passes log-probabilities,
    greedy decoding logits (transformers 5, `generation/logits_process.py`).
    """
    vocabulary = jnp.arange(scores.shape[-1])
    if config.stop_ids and limits.minimum > limits.prompt:
        stops = jnp.isin(vocabulary, jnp.asarray(config.stop_ids))
        scores = jnp.where(stops & (length < limits.minimum), -jnp.inf, scores)
    if config.forced_bos_token_id is not None and limits.prompt == 1:
        scores = jnp.where(length == 1, _only(config.forced_bos_token_id, vocabulary), scores)
    if config.forced_eos_token_id is not None:
        scores = jnp.where(
            length == limits.maximum - 1, _only(config.forced_eos_token_id, vocabulary), scores
        )
    return scores


def _only(token: int, vocabulary: Int[Array, "V"]) -> Float[Array, "V"]:
    return jnp.where(vocabulary == token, 0.0, -jnp.inf)
