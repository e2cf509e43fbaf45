"""Random tokens, at each of which a model must name tokens that stand elsewhere: the smallest task for attention."""

from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.studies.lab.training import Examples

HELD_OUT = 256

Tokens = Int[np.ndarray, "N T"]


class Tagger(nnx.Module):
    """An encoder that names, at each token, as many tokens of its vocabulary as there are `answers` to give."""

    def __init__(self, config: TextEncoderConfig, answers: int = 1, *, rngs: nnx.Rngs):
        self.encoder = config.build(rngs=rngs)
        self.head = nnx.LinearGeneral(config.output_width, (answers, config.vocabulary_size), rngs=rngs)

    def __call__(self, tokens: Int[Array, "B T"], *, train: bool) -> Float[Array, "B T answers V"]:
        return self.head(self.encoder.encode(tokens, train=train)[0])


def sequences(
    answers: Sequence[Callable[[Tokens], Tokens]], *, vocabulary: int, length: int, count: int = 8192
) -> tuple[Examples, Examples]:
    """`count` sequences [N, T] to learn from and held-out ones, with the `answers` [N, T, answers] to each token."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, (count + HELD_OUT, length))
    wanted = np.stack([answer(tokens) for answer in answers], axis=-1)
    return Examples(tokens[HELD_OUT:], wanted[HELD_OUT:]), Examples(tokens[:HELD_OUT], wanted[:HELD_OUT])


def before(places: int, *, circle: bool = True) -> Callable[[Tokens], Tokens]:
    """The token so many places before: at the first ones in a circle that from the end, otherwise their own."""

    def answer(tokens: Tokens) -> Tokens:
        wanted = np.roll(tokens, places, axis=1)
        if not circle:
            wanted[:, :places] = tokens[:, :places]
        return wanted

    return answer


def mirrored(tokens: Tokens) -> Tokens:
    """The token as far from the end as this one is from the start."""
    return tokens[:, ::-1]
