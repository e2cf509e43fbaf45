"""Readers of tokens that differ only in what carries the past along, and two tasks for them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.data.datasets.words import WORDS
from vitjax.nn.attention import causal_mask
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.embeddings import TokenEmbedding
from vitjax.nn.norms import make_norm
from vitjax.nn.positions import sinusoidal
from vitjax.nn.recurrent import LSTMCell, RNNCell, recur
from vitjax.nn.stack import run_blocks, stack_blocks
from vitjax.studies.lab.training import Examples

ALPHABET = " abcdefghijklmnopqrstuvwxyz"  # the tokens
RECALLED = 8  # tokens of the alphabet that `recall` asks for; as many others stand between
RNN, LSTM, OPEN, RESIDUAL = "RNN", "LSTM", "LSTM, forget bias 5", "LSTM, residual"
TRANSFORMER = "Transformer"
READERS: dict[str, Callable[..., nnx.Module]] = {
    RNN: RNNCell,
    LSTM: LSTMCell,
    OPEN: partial(LSTMCell, forget_bias=5.0),
    RESIDUAL: LSTMCell,
    TRANSFORMER: EncoderBlock,
}


class Reader(nnx.Module):
    """Token vectors, layers that know no token to come, a norm and a head.

    Args:
      name: among `READERS`; with `RESIDUAL` each layer is added to what it reads, as a Transformer's are. A layer of
        `TRANSFORMER` has as many parameters as an LSTM's cell, within 1 %.
      every: logits after every token [B, T, V], instead of after the last alone [B, V].
    """

    def __init__(self, name: str, width: int, depth: int = 1, *, every: bool = False, rngs: nnx.Rngs):
        self.blocks = TransformerConfig(width, depth, 4, 2 * width - 3) if name == TRANSFORMER else None
        arguments = (self.blocks,) if self.blocks else (width, width)
        self.embedding = TokenEmbedding(len(ALPHABET), width, rngs=rngs)
        self.layers = stack_blocks(lambda r: READERS[name](*arguments, rngs=r), depth, rngs=rngs)
        self.norm = make_norm("layer", width, epsilon=1e-6, dtype="float32", rngs=rngs)
        self.head = nnx.Linear(width, len(ALPHABET), rngs=rngs)
        self.residual, self.every = name == RESIDUAL, every

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors of variance 1; with sinusoidal positions for a Transformer, which has no other sense of order."""
        x = self.embedding(tokens)
        x = x * x.shape[-1] ** 0.5
        return x + sinusoidal(jnp.arange(x.shape[1]), x.shape[2]) if self.blocks else x

    def run(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What the last layer says at each place, having read up to there."""
        if self.blocks:
            mask = causal_mask(x.shape[1])
            return run_blocks(
                self.layers, x, config=self.blocks, mask=mask, train=False, key=None, return_weights=False
            ).x

        def layer(x: Array, cell: Any) -> tuple[Array, None]:
            said = recur(cell, x, cell.initial_state(x.shape[0]))[0]
            return (x + said if self.residual else said), None

        return jax.lax.scan(layer, x, self.layers)[0]

    def __call__(self, tokens: Int[Array, "B T"], *, train: bool) -> Float[Array, "*answers V"]:
        x = self.run(self.embed(tokens))
        return self.head(self.norm(x if self.every else x[:, -1], train=train))


def recall(distance: int, count: int) -> Examples:
    """Sequences whose first token must be named after `distance` others, which are of another kind."""
    rng = np.random.default_rng(count)
    first = rng.integers(0, RECALLED, count)
    others = rng.integers(RECALLED, 2 * RECALLED, (count, distance))
    return Examples(np.concatenate([first[:, None], others], axis=1), first)


def prose(length: int, count: int) -> Examples:
    """Rows of `length` characters of random English words, with the next one of each."""
    words = np.random.default_rng(count).choice(WORDS, count * (length + 1) // 4)
    text = np.array([ALPHABET.index(character) for character in " ".join(words)])
    rows = text[: count * (length + 1)].reshape(count, length + 1)
    return Examples(rows[:, :-1], rows[:, 1:])
