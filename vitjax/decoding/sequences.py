"""What generation returns."""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, Int


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Sequences:
    """N hypotheses for each of B rows, best first; a pytree.

    Attributes:
      tokens: decoder prompt, generated tokens, EOS if one was generated, then filler up to `max_length`.
      scores: sum of the generated tokens' log-probabilities / (their number, EOS included)**length_penalty. About -1e9
        where a row had fewer than N hypotheses.
      lengths: tokens before the filler: `tokens[b, n, :lengths[b, n]]` is the sequence, with its prompt and EOS.
      token_log_probs: natural log-probability of each generated token; 0 in the prompt and the filler.
    """

    tokens: Int[Array, "B N T"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]
    token_log_probs: Float[Array, "B N T"]

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], None]:
        return tuple((jax.tree_util.GetAttrKey(name), leaf) for name, leaf in vars(self).items()), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any, ...]) -> "Sequences":
        # Past the constructor: JAX also builds pytrees of things that are no arrays (shapes, shardings, NumPy).
        sequences = object.__new__(cls)
        for name, leaf in zip(cls.__dataclass_fields__, leaves, strict=True):
            object.__setattr__(sequences, name, leaf)
        return sequences
