"""What beam searches of different engines disagree about: scores, who may finish, and when a row gives up.

`RULES` has them by name. In each of them a beam of K goes on with the K best candidates that did not end.

"transformers": transformers 5, `GenerationMixin._beam_search`. A hypothesis scores sum(log p) / n**penalty, where n
  counts EOS. Only the K best candidates may finish. At the maximum length unfinished ones compete as they are.
  `early_stopping` says when a row stops.
"t5x": t5x `decoding.beam_search`, and flax's example wmt. It scores sum(log p) / ((5 + n) / 6)**penalty. Any of the
  2 K candidates may finish. What is unfinished at the maximum length is dropped; a row in which nothing finished
  returns its beams, with scores that are not divided. A row stops when its best beam, divided as if it had one token
  more than the maximum, is below K finished hypotheses. (t5x counts forced prompt tokens in n; vitjax does not.)
"fairseq": fairseq `SequenceGenerator`. The first K hypotheses that finish are taken, in order of their candidates'
  ranks, and with the last of them the row stops: a better one cannot replace them. At the maximum length EOS is the
  only token possible, with its own log-probability (fairseq's max_len does not count EOS, `max_new_tokens` does).
  The pad token is never chosen. (fairseq's own default is min_len=1, that is `min_new_tokens=1`.)
"ctranslate2": CTranslate2 `BeamSearch`, with patience 1. n does not count EOS; EOS at once scores minus infinity
  for a positive penalty (here -5e8). A row stops with K hypotheses; with a penalty of 0 as soon as the best of all
  candidates has ended and `num_return_sequences` are there. Processors act on logits, before the log-softmax.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding.config import GenerationConfig


class Standing(NamedTuple):
    """Where a search stands after a token."""

    best: Float[Array, "B"]  # the best unfinished beam's sum of log-probabilities
    worst: Float[
        Array, "B"
    ]  # the worst finished hypothesis' score; about -1e9 while fewer than K have finished
    full: Bool[Array, "B"]  # K have finished
    finished: Int[Array, "B"]  # so many have
    led: Bool[Array, "B"]  # the best of all candidates has ended, now or before
    weights: Float[Array, "n"]  # of sums of log-probabilities, for lengths of 0, 1, 2, ...
    length: Int[Array, ""]  # new tokens so far
    longest: Any  # new tokens at the maximum length


@dataclass(frozen=True)
class Rules:
    """One engine's rules.

    Attributes:
      weights: of lengths and `length_penalty`: what sums of log-probabilities are multiplied by.
      settled: whether a row [B] needs no more steps.
      counts_eos: whether a length counts EOS.
      any_may_finish: all candidates may, not only the K best.
      first_come: the pool keeps what came first, not what is best.
      counts_dead: beams that were never alive, for lack of tokens, may finish too and fill the pool.
      keeps_unfinished: at the maximum length unfinished candidates enter the pool.
      must_end: EOS is the only token possible at the maximum length, and the pad token never is.
      normalizes: processed scores are normalised.
    """

    weights: Callable[[np.ndarray, float], np.ndarray]
    settled: Callable[[GenerationConfig, Standing], Any]
    counts_eos: bool = True
    any_may_finish: bool = False
    first_come: bool = False
    counts_dead: bool = True
    keeps_unfinished: bool = True
    must_end: bool = False
    normalizes: bool = False


def _power(lengths: np.ndarray, penalty: float) -> np.ndarray:
    return lengths**-penalty


def _brevity(lengths: np.ndarray, penalty: float) -> np.ndarray:
    """Wu et al. 2016, Google's Neural Machine Translation System, with 5 as there."""
    return ((5 + lengths) / 6) ** -penalty


def _transformers(config: GenerationConfig, at: Standing) -> Bool[Array, "B"]:
    optimistic = config.early_stopping == "never" and config.length_penalty > 0
    possible = at.best * at.weights[at.longest if optimistic else at.length]
    hopeless = ~(possible > at.worst)
    return hopeless | at.full if config.early_stopping is True else hopeless


def _t5x(config: GenerationConfig, at: Standing) -> Bool[Array, "B"]:
    return at.full & (at.worst > at.best * at.weights[at.longest + 1])


def _fairseq(config: GenerationConfig, at: Standing) -> Bool[Array, "B"]:
    return at.full


def _ctranslate2(config: GenerationConfig, at: Standing) -> Bool[Array, "B"]:
    if config.length_penalty == 0:
        return at.led & (at.finished >= config.num_return_sequences)
    return at.full


RULES = {
    "transformers": Rules(_power, _transformers),
    "t5x": Rules(_brevity, _t5x, any_may_finish=True, keeps_unfinished=False),
    "fairseq": Rules(_power, _fairseq, first_come=True, counts_dead=False, must_end=True),
    "ctranslate2": Rules(_power, _ctranslate2, counts_eos=False, counts_dead=False, normalizes=True),
}


def table(config: GenerationConfig, longest: int) -> Float[Array, "n"]:
    """What the sums of hypotheses of 0, 1, ..., longest + 1 tokens are multiplied by.

    In double precision on the host. Factors and not divisors: XLA divides one way in one program and another way in the
    next, and a row's score would depend on the batch.
    """
    with np.errstate(divide="ignore"):
        lengths = np.arange(longest + 2, dtype=np.float64)
        return jnp.asarray(RULES[config.rules].weights(lengths, float(config.length_penalty)), jnp.float32)
