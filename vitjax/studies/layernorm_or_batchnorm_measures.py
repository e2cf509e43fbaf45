"""Tasks, models and measurements of the study `layernorm-or-batchnorm`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge, stats_of
from vitjax.nn.norms import NormKind
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.study import Spread
from vitjax.studies.lab.training import Draw, Examples, Trained, fresh

WIDTH, DEPTH = 32, 2
SUBJECTS, VALUES, LENGTH = 16, 8, 24  # a word tells one of 8 values of one of 16 subjects
SENTENCES, HELD_OUT = 16384, 1024
MOMENTUM = 0.9  # of vitjax's BatchNorm: what a batch leaves of the running statistics

Position = Literal["pre", "post"]


def transformer(norm: NormKind, depth: int = DEPTH, position: Position = "pre") -> TransformerConfig:
    """The blocks of all models here."""
    return TransformerConfig(WIDTH, depth, 4, 2 * WIDTH, norm=norm, norm_position=position)


class Lookup(nnx.Module):
    """An encoder that answers the question in which a padded sentence begins."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        words = 1 + SUBJECTS + SUBJECTS * VALUES  # padding is 0
        self.encoder = TextEncoderConfig(config, words, LENGTH, positions="learned").build(rngs=rngs)
        self.head = nnx.Linear(WIDTH, VALUES, rngs=rngs)

    def __call__(self, sentences: Int[Array, "B S"], *, train: bool) -> Float[Array, "B values"]:
        vectors, _ = self.encoder.encode(sentences, source_mask=sentences > 0, train=train)
        return self.head(vectors[:, 0])


@dataclass(frozen=True)
class Task:
    """Examples to learn and to be tested by, and the model that learns them.

    Attributes:
      build: the model with a configuration of blocks.
      draw: how batches are put together; None: at random.
    """

    examples: Examples
    held_out: Examples
    build: Callable[[TransformerConfig, nnx.Rngs], nnx.Module]
    draw: Draw | None = None


def text(*, shortest: int = 2, longest: int = LENGTH - 1, alike: bool = False) -> Task:
    """Which value does the sentence tell of the subject that its first word asks for?

    Args:
      shortest, longest: words behind the first.
      alike: put sentences of like length into a batch.
    """
    rng = np.random.default_rng(0)
    shape = (SENTENCES + HELD_OUT, longest)
    rows = np.arange(shape[0])
    length = rng.integers(shortest, longest + 1, shape[0])
    subjects, values = rng.integers(0, SUBJECTS, shape), rng.integers(0, VALUES, shape)
    told = rng.integers(0, length)
    asked, answers = subjects[rows, told], values[rows, told]
    values = np.where(subjects == asked[:, None], answers[:, None], values)
    words = np.where(np.arange(longest) < length[:, None], 1 + SUBJECTS + subjects * VALUES + values, 0)
    sentences = np.concatenate([1 + asked[:, None], words], axis=1).astype(np.int32)
    learned, held_out = slice(HELD_OUT, None), slice(HELD_OUT)
    return Task(
        Examples(sentences[learned], answers[learned]),
        Examples(sentences[held_out], answers[held_out]),
        lambda config, rngs: Lookup(config, rngs=rngs),
        partial(_neighbours, np.argsort(length[learned], kind="stable")) if alike else None,
    )


def _neighbours(
    by_length: Int[np.ndarray, " N"], rng: np.random.Generator, shape: tuple[int, int]
) -> Int[np.ndarray, "steps B"]:
    """Batches of neighbours in that order."""
    steps, batch = shape
    first = rng.integers(0, len(by_length) - batch, (steps, 1))
    return by_length[first + np.arange(batch)]


def images() -> Task:
    """Which digit is it? 8 x 8 pixels, 16 patches."""

    def build(config: TransformerConfig, rngs: nnx.Rngs) -> nnx.Module:
        vit = VisionTransformerConfig(config, (8, 8), (2, 2), channels=1, num_classes=10)
        return vit.build(rngs=rngs)

    return Task(*digit_examples(), build)


def changed_answers(model: Trained, examples: Examples, batch: int) -> Spread:
    """Share of 512 answers to the same batches that differ between train mode and evaluation mode."""

    @jax.jit
    @jax.vmap
    def share(params: Tree, stats: Tree, batches: Array) -> Array:
        def differ(inputs: Array) -> Array:
            train, evaluation = (
                merge(model.definition, params, stats)(inputs, train=mode).argmax(-1)
                for mode in (True, False)
            )
            return (train != evaluation).mean()

        return jax.lax.map(differ, batches).mean()

    shape = (len(model.losses), 512 // batch, batch)
    chosen = np.random.default_rng(0).integers(0, len(examples.inputs), shape)
    return Spread.of(share(model.params, model.stats, examples.inputs[chosen]))


def distances_of_statistics(model: Trained, batches: Int[np.ndarray, "N B S"]) -> list[Spread]:
    """Between the means over each batch and the running ones, in running deviations: root mean square over features."""

    @jax.jit
    @jax.vmap
    def distances(params: Tree, stats: Tree) -> Float[Array, " N"]:
        def distance(inputs: Array) -> Array:
            module = merge(model.definition, params, stats)
            module(inputs, train=True)
            squares = [
                ((new["mean"] - old["mean"]) / (1 - MOMENTUM)) ** 2 / old["var"]
                for old, new in zip(_norms(stats), _norms(stats_of(module)), strict=True)
            ]
            return jnp.sqrt(jnp.concatenate([square.ravel() for square in squares]).mean())

        return jax.lax.map(distance, batches)

    return [Spread.of(of_seeds) for of_seeds in distances(model.params, model.stats).T]


def _norms(stats: Tree) -> list[Tree]:
    """The statistics of each BatchNorm."""
    if "mean" in stats:
        return [stats]
    return [norm for name in sorted(stats) for norm in _norms(stats[name])]


def influence_of_others(
    model: Trained, sentences: Int[np.ndarray, "N S"], batch: int = 8
) -> dict[str, dict[bool, Spread]]:
    """How far the answer to a sentence moves, by train mode or not: largest difference of a logit, in deviations.

    Either the `others` in its batch are exchanged, or the batch stays and gets columns of `padding`.
    """
    half = LENGTH // 2
    short = sentences[(sentences[:, half:] == 0).all(axis=1)]
    first, others = short[:batch], short[batch : 2 * batch]
    exchanged = np.concatenate([first[:1], others[1:]])

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def logits(params: Tree, stats: Tree, inputs: Int[Array, "B S"]) -> dict[bool, Float[Array, " values"]]:
        return {
            train: merge(model.definition, params, stats)(inputs, train=train)[0] for train in (True, False)
        }

    def answers(inputs: Int[np.ndarray, "B S"]) -> dict[bool, Float[np.ndarray, "seeds values"]]:
        return jax.tree.map(np.asarray, logits(model.params, model.stats, inputs))

    plain, variants = answers(first[:, :half]), {"others": exchanged[:, :half], "padding": first}
    found: dict[str, dict[bool, Spread]] = {}
    for name, inputs in variants.items():
        found[name] = {
            mode: Spread.of(np.abs(logits - plain[mode]).max(-1) / plain[mode].std(-1))
            for mode, logits in answers(inputs).items()
        }
    return found


def seen_of_the_future(norm: NormKind, seeds: tuple[int, ...], length: int = 8) -> Spread:
    """Share of a causal decoder's logits that a change of the last token alters before it, in train mode."""
    config = DecoderConfig(transformer(norm, depth=1), 16, length)
    definition, params, stats = fresh(
        lambda rngs: TransformerDecoder(config, context_width=WIDTH, rngs=rngs), seeds
    )
    tokens = np.random.default_rng(0).integers(0, 15, (2, length))
    other = tokens.copy()
    other[:, -1] += 1

    @jax.jit
    @jax.vmap
    def logits(params: Tree, stats: Tree) -> Float[Array, "2 B T V"]:
        def read(tokens: Array) -> Array:
            model = merge(definition, params, stats)
            return model(tokens, jnp.ones((2, 1, WIDTH)), train=True).logits

        return jax.lax.map(read, jnp.stack([tokens, other]))

    found = np.asarray(logits(params, stats)).view(np.uint32)[:, :, :, :-1]
    return Spread.of((found[:, 0] != found[:, 1]).mean((1, 2, 3)))


def gradients(
    task: Task, depths: Sequence[int], seeds: tuple[int, ...]
) -> dict[tuple[Position, int], Float[np.ndarray, "seeds L"]]:
    """Norm of the loss's gradient for the parameters of each layer of fresh text encoders, by position and depth.

    All begin alike: the shallower ones are the first layers of the deepest.
    """
    _, params, _ = fresh(partial(task.build, transformer("layer", max(depths))), seeds)
    return {
        (position, depth): _gradients(task, position, depth, params)
        for position in get_args(Position)
        for depth in depths
    }


def _gradients(task: Task, position: Position, depth: int, params: Tree) -> Float[np.ndarray, "seeds L"]:
    definition, kept, _ = abstract(partial(task.build, transformer("layer", depth, position)))
    encoder = {name: params["encoder"][name] for name in kept["encoder"]}  # post-norm has no norm at the end
    encoder["blocks"] = jax.tree.map(lambda leaf: leaf[:, :depth], encoder["blocks"])
    inputs, answers = jnp.asarray(task.examples.inputs[:32]), task.examples.answers[:32]

    def loss(params: Tree) -> Array:
        logits = merge(definition, params)(inputs, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()

    @jax.jit
    @jax.vmap
    def by_layer(params: Tree) -> Float[Array, " L"]:
        blocks = jax.tree.leaves(jax.grad(loss)(params)["encoder"]["blocks"])  # each [L, ...]
        return jnp.sqrt(sum((leaf.reshape(depth, -1) ** 2).sum(axis=1) for leaf in blocks))

    return np.asarray(by_layer({**params, "encoder": encoder}), np.float64)
