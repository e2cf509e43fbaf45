"""Sentences of different lengths, padded to one, that begin with a question, and a model that answers it."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.studies.lab.training import Build, Config, Draw, Examples

SUBJECTS, VALUES = 16, 8  # a word tells one of 8 values of one of 16 subjects
LONGEST = 23  # words of a sentence, without the question
PADDING = 0
HELD_OUT = 1024


def sentences(shortest: int, count: int = 16384) -> tuple[Examples, Examples]:
    """`count` sentences [N, S] to learn from and held-out ones, of `shortest` to `LONGEST` words, equally often.

    The first word names a subject, others tell values of subjects, and the answer is the value told of that one.
    """
    rng = np.random.default_rng(0)
    rows = np.arange(count + HELD_OUT)
    length = rng.integers(shortest, LONGEST + 1, len(rows))
    values = rng.integers(0, VALUES, (len(rows), SUBJECTS))
    subjects = rng.integers(0, SUBJECTS, (len(rows), LONGEST))
    asked = subjects[rows, rng.integers(0, length)]
    words = 1 + SUBJECTS + VALUES * subjects + np.take_along_axis(values, subjects, axis=1)
    words = np.where(np.arange(LONGEST) < length[:, None], words, PADDING)
    inputs, answers = np.concatenate([1 + asked[:, None], words], axis=1), values[rows, asked]
    return Examples(inputs[HELD_OUT:], answers[HELD_OUT:]), Examples(inputs[:HELD_OUT], answers[:HELD_OUT])


def alike_in_length(examples: Examples) -> Draw:
    """Chooses batches of sentences that are neighbours in an order by length."""
    by_length = np.argsort((examples.inputs != PADDING).sum(axis=1), kind="stable")

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Int[np.ndarray, "steps B"]:
        steps, batch = shape
        first = rng.integers(0, len(by_length) - batch, (steps, 1))
        return by_length[first + np.arange(batch)]

    return draw


def sentence_reader(transformer: TransformerConfig) -> Config:
    """Answers sentences."""
    return Build(partial(SentenceReader, transformer))


class SentenceReader(nnx.Module):
    """An encoder that scores the values at the question."""

    def __init__(self, transformer: TransformerConfig, *, rngs: nnx.Rngs):
        words = 1 + SUBJECTS + SUBJECTS * VALUES
        self.encoder = TextEncoderConfig(transformer, words, 1 + LONGEST, positions="learned").build(
            rngs=rngs
        )
        self.head = nnx.Linear(transformer.width, VALUES, rngs=rngs)

    def __call__(self, sentences: Int[Array, "B S"], *, train: bool) -> Float[Array, "B values"]:
        vectors, _ = self.encoder.encode(
            sentences, source_mask=jnp.not_equal(sentences, PADDING), train=train
        )
        return self.head(vectors[:, 0])
