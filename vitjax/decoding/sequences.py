"""What generation returns."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Sequences:
    """N hypotheses for each of B rows, best first (samples in the order drawn); a pytree.

    Attributes:
      tokens: decoder prompt, generated tokens, EOS if one was generated, then filler up to `max_length`.
      scores: sum of the generated tokens' log-probabilities / (their number, EOS included)**length_penalty. About -1e9
        where a row had fewer than N hypotheses.
      lengths: tokens before the filler: `tokens[b, n, :lengths[b, n]]` is the sequence, with its prompt and EOS.
      finished: whether a stop token ended it; the others were cut at `max_length`.
      steps: decoder steps that were run for the whole batch, the prompt counted as one.
      token_log_probs: natural log-probability of each generated token; 0 in the prompt and the filler.
    """

    tokens: Int[Array, "B N T"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]
    token_log_probs: Float[Array, "B N T"]
    finished: Bool[Array, "B N"]
    steps: Int[Array, ""]

    def cut(self, rows: int, start: int, end: int) -> "Sequences":
        """The first `rows`, the columns from `start` to `end`; on the host, so that nothing is compiled for a size."""
        if (rows, start, end) == (self.tokens.shape[0], 0, self.tokens.shape[2]):
            return self
        columns = np.s_[:rows, :, start:end]
        host = jax.device_get(vars(self))
        host |= {name: host[name][columns] for name in ("tokens", "token_log_probs")}
        host |= {name: host[name][:rows] for name in ("scores", "lengths", "finished")}
        host["lengths"] = host["lengths"] - start
        return Sequences(**jax.device_put(host))

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], None]:
        return tuple((jax.tree_util.GetAttrKey(name), leaf) for name, leaf in vars(self).items()), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any, ...]) -> "Sequences":
        # Past the constructor: JAX also builds pytrees of things that are no arrays (shapes, shardings, NumPy).
        sequences = object.__new__(cls)
        for name, leaf in zip(cls.__dataclass_fields__, leaves, strict=True):
            object.__setattr__(sequences, name, leaf)
        return sequences
