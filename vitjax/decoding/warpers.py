"""The distribution that sampling draws from: logits of the model, narrowed down by transformers' rules.

Every rule keeps the tokens above some threshold. Where the threshold is not a formula it is found bit by bit: 32 passes
over the scores instead of a sort, which inside a compiled loop takes twenty times as long on a CPU. Drawing takes one
random number and a running sum instead of noise for every token (`python -m benchmarks.sampling`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.top_k import TAKEN, ordered

BLOCK = 64


class Warpers(NamedTuple):
    """The numbers of the rules that are on, None where one is off; a pytree, so that a new number compiles nothing.

    `top_p_rest` is `1 - top_p`, what the tokens that go may add up to; the others are the options of that name.
    """

    temperature: Any = None
    top_k: Any = None
    top_p_rest: Any = None
    min_p: Any = None
    typical_p: Any = None
    epsilon_cutoff: Any = None
    eta_cutoff: Any = None

    @classmethod
    def of(cls, config: GenerationConfig) -> "Warpers":
        """What the config asks for; nothing without `do_sample`."""
        if not config.do_sample:
            return cls()

        def unless(off: bool, number: Any) -> Any:
            return None if off else np.float32(number)

        return cls(
            temperature=np.float32(config.temperature),
            top_k=np.int32(config.top_k) if config.top_k else None,
            top_p_rest=unless(config.top_p == 1, 1 - config.top_p),
            min_p=None if config.min_p is None else np.float32(config.min_p),
            typical_p=unless(config.typical_p == 1, config.typical_p),
            epsilon_cutoff=unless(config.epsilon_cutoff == 0, config.epsilon_cutoff),
            eta_cutoff=unless(config.eta_cutoff == 0, config.eta_cutoff),
        )


def warp(logits: Float[Array, "*B V"], warpers: Warpers) -> Float[Array, "*B V"]:
    """Logits of the same shape with -inf for the tokens that are not to be drawn.

    Order and meaning are those of transformers 5 (`_get_logits_processor`, `generation/logits_process.py`). Each rule
    sees what the one before left. The likeliest token always stays.
    """
    if warpers.temperature is not None:
        logits = logits / warpers.temperature
    for number, rule in (
        (warpers.top_k, _top_k),
        (warpers.top_p_rest, _top_p),
        (warpers.min_p, _min_p),
        (warpers.typical_p, _typical),
        (warpers.epsilon_cutoff, _epsilon),
        (warpers.eta_cutoff, _eta),
    ):
        if number is not None:
            logits = jnp.where(rule(logits, number), logits, -jnp.inf)
    return logits


def draw(weights: Float[Array, "*B V"], uniform: Float[Array, "*B"]) -> Int[Array, "*B"]:
    """A token for each number in [0, 1): the first at which the running sum of the weights passes that part of it.

    The weights need not sum to 1. Tokens of weight 0 are never drawn.
    """
    missing = -weights.shape[-1] % BLOCK
    blocks = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
    blocks = blocks.reshape(*weights.shape[:-1], -1, BLOCK)
    sums = jnp.sum(blocks, axis=-1)
    block, rest = _pass(sums, uniform[..., None] * jnp.sum(sums, axis=-1, keepdims=True))
    inner = jnp.take_along_axis(blocks, block[..., None], axis=-2)[..., 0, :]
    place, _ = _pass(inner, rest)
    return (block * BLOCK + place)[..., 0].astype(jnp.int32)


def _pass(
    weights: Float[Array, "*B N"], target: Float[Array, "*B 1"]
) -> tuple[Int[Array, "*B 1"], Float[Array, "*B 1"]]:
    """The first place where the running sum is above the target, and what the target asks of this place."""
    places = jnp.arange(weights.shape[-1])
    running = jnp.cumsum(weights, axis=-1)
    real = weights > 0
    # Rounding may leave no sum above the target: then it is the last place that can be drawn.
    last = jnp.max(jnp.where(real, places, 0), axis=-1, keepdims=True)
    place = jnp.min(jnp.where(real & (running > target), places, last), axis=-1, keepdims=True)
    return place, target - jnp.take_along_axis(running - weights, place, axis=-1)


def _top_k(logits: Array, k: Any) -> Array:
    keys, size = ordered(logits), logits.shape[-1]
    return keys >= _largest(lambda t: jnp.sum(keys < t, axis=-1, keepdims=True) <= size - k, keys)


def _top_p(logits: Array, rest: Any) -> Array:
    keys, probs = ordered(logits), jax.nn.softmax(logits)
    threshold = _largest(lambda t: _mass(keys < t, probs) <= rest, keys)
    threshold = jnp.minimum(threshold, jnp.max(keys, axis=-1, keepdims=True))
    # Of the tokens that tie at the threshold go as many as the sum allows, lowest ids first.
    tied = keys == threshold
    count = jnp.sum(tied, axis=-1, keepdims=True)
    each = jnp.max(jnp.where(tied, probs, 0), axis=-1, keepdims=True)
    gone = jnp.floor((rest - _mass(keys < threshold, probs)) / each)
    gone = jnp.clip(gone, 0, count - 1)
    return (keys > threshold) | (tied & (jnp.cumsum(tied, axis=-1) > gone))


def _min_p(logits: Array, least: Any) -> Array:
    probs = jax.nn.softmax(logits)
    return probs >= least * jnp.max(probs, axis=-1, keepdims=True)


def _typical(logits: Array, mass: Any) -> Array:
    log_probs = jax.nn.log_softmax(logits)
    keys, probs = ordered(jnp.abs(-log_probs - _entropy(log_probs))), jnp.exp(log_probs)
    return keys <= _largest(lambda t: _mass(keys < t, probs) < mass, keys)


def _epsilon(logits: Array, least: Any) -> Array:
    probs = jax.nn.softmax(logits)
    return (probs >= least) | (logits >= jnp.max(logits, axis=-1, keepdims=True))


def _eta(logits: Array, eta: Any) -> Array:
    entropy = _entropy(jax.nn.log_softmax(logits))
    return _epsilon(logits, jnp.minimum(eta, jnp.sqrt(eta) * jnp.exp(-entropy)))


def _entropy(log_probs: Float[Array, "*B V"]) -> Float[Array, "*B 1"]:
    terms = jnp.where(log_probs == -jnp.inf, 0, jnp.exp(log_probs) * log_probs)
    return -jnp.sum(terms, axis=-1, keepdims=True)


def _mass(chosen: Bool[Array, "*B V"], probs: Float[Array, "*B V"]) -> Float[Array, "*B 1"]:
    # As a matrix product it takes half as long as a sum on a CPU.
    ones = jnp.ones((probs.shape[-1], 1), probs.dtype)
    return jnp.matmul(jnp.where(chosen, probs, 0), ones, precision="highest")


def _largest(holds: Callable[[Array], Array], keys: Int[Array, "*B V"]) -> Int[Array, "*B 1"]:
    """The largest threshold for which `holds(threshold)`, which is True up to some number and False from there on."""

    def set_bit(n: Array, threshold: Array) -> Array:
        higher = threshold + (jnp.int32(1) << (30 - n))
        return jnp.where(holds(higher), higher, threshold)

    # Two's complement: the sign bit is set in all numbers below 0.
    lowest = jnp.full_like(keys[..., :1], TAKEN)
    start = jnp.where(holds(jnp.zeros_like(lowest)), 0, lowest)
    return jax.lax.fori_loop(0, 31, set_bit, start)
