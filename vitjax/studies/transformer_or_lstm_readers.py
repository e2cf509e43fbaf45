"""Readers that differ only in what carries the past along, RNN, LSTM or self-attention, and what is found in them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.data.datasets.words import WORDS
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import Encoded, EncoderDecoderConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.vit import VisionTransformer, VisionTransformerConfig
from vitjax.nn.attention import causal_mask
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.embeddings import PackedPatches, TokenEmbedding
from vitjax.nn.functional import Tree, merge
from vitjax.nn.norms import make_norm
from vitjax.nn.positions import sinusoidal
from vitjax.nn.recurrent import LSTMCell, LSTMState, RNNCell, recur
from vitjax.nn.stack import layers, run_blocks, stack_blocks
from vitjax.studies.lab.strings import BEGIN, DIGITS, PATCH, SIDE, WIDTH, Strings
from vitjax.studies.lab.training import Examples

KEPT = 8  # symbols that a reader must recall, and as many that it need not
ALPHABET = " abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class ReaderConfig:
    """A reader of tokens.

    Attributes:
      core: what its layers are; a Transformer's block has as many parameters as an LSTM's cell, within 1 %.
      answers: logits after the last token, or after every one.
      residual: recurrent layers are added to what they read, as a Transformer's always are.
      forget_bias: start of the LSTM's.
    """

    core: Literal["rnn", "lstm", "transformer"]
    vocabulary_size: int
    width: int
    depth: int = 1
    answers: Literal["last", "every"] = "last"
    residual: bool = False
    forget_bias: float = 1.0

    def build(self, *, rngs: nnx.Rngs) -> "Reader":
        return Reader(self, rngs=rngs)


class Reader(nnx.Module):
    """Token vectors, a stack of layers, a norm and a head."""

    def __init__(self, config: ReaderConfig, *, rngs: nnx.Rngs):
        width = config.width
        blocks = TransformerConfig(width, config.depth, 4, 2 * width - 3)
        build: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
            "rnn": lambda r: RNNCell(width, width, rngs=r),
            "lstm": lambda r: LSTMCell(width, width, forget_bias=config.forget_bias, rngs=r),
            "transformer": lambda r: EncoderBlock(blocks, rngs=r),
        }
        self.embedding = TokenEmbedding(config.vocabulary_size, width, rngs=rngs)
        self.layers = stack_blocks(build[config.core], config.depth, rngs=rngs)
        self.norm = make_norm("layer", width, epsilon=1e-6, dtype="float32", rngs=rngs)
        self.head = nnx.Linear(width, config.vocabulary_size, rngs=rngs)
        self.blocks = blocks if config.core == "transformer" else None
        self.residual, self.every = config.residual, config.answers == "every"

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors of variance 1; with sinusoidal positions for a Transformer, which has no other sense of order."""
        x = self.embedding(tokens)
        x = x * x.shape[-1] ** 0.5
        return x if self.blocks is None else x + sinusoidal(jnp.arange(x.shape[1]), x.shape[2])

    def run(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What the last layer says at each place, having read up to there."""
        if self.blocks is not None:
            return run_blocks(
                self.layers,
                x,
                config=self.blocks,
                mask=causal_mask(x.shape[1]),
                train=False,
                key=None,
                return_weights=False,
            ).x

        def layer(x: Array, cell: Any) -> tuple[Array, None]:
            said = recur(cell, x, cell.initial_state(x.shape[0]))[0]
            return (x + said if self.residual else said), None

        return jax.lax.scan(layer, x, self.layers)[0]

    def __call__(self, tokens: Int[Array, "B T"], *, train: bool) -> Array:
        x = self.run(self.embed(tokens))
        return self.head(self.norm(x if self.every else x[:, -1], train=train))


def recall(distance: int, count: int) -> Examples:
    """Sequences whose first token must be named after `distance` others, which are of another kind."""
    rng = np.random.default_rng(count)
    wanted = rng.integers(0, KEPT, count)
    others = rng.integers(KEPT, 2 * KEPT, (count, distance))
    return Examples(np.concatenate([wanted[:, None], others], axis=1), wanted)


def prose(length: int, count: int) -> Examples:
    """Rows of `length` characters of random English words, with the next one of each."""
    words = np.random.default_rng(count).choice(WORDS, count * (length + 1) // 4)
    text = np.array([ALPHABET.index(character) for character in " ".join(words)])
    rows = text[: count * (length + 1)].reshape(count, length + 1)
    return Examples(rows[:, :-1], rows[:, 1:])


def loss_of(reader: Any, tokens: Int[Array, "B T"], answers: Int[Array, "*answers"]) -> Array:
    """Mean cross-entropy in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(reader(tokens, train=True), answers).mean()


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None))
def by_distance(definition: nnx.GraphDef, params: Tree, tokens: Int[Array, "B T"]) -> Float[Array, " T"]:
    """Norm of the gradient of what is said last with respect to the vector of the token k before, k = 0, 1, ..."""
    reader = merge(definition, params)

    def said(x: Float[Array, "B T D"]) -> Array:
        last = reader.run(x)[:, -1]
        return (
            last * jnp.where(jnp.arange(last.shape[-1]) % 2, 1.0, -1.0)
        ).sum()  # a sum alone, a norm takes away

    return jnp.sqrt((jax.grad(said)(reader.embed(tokens)) ** 2).sum((0, 2)))[::-1]


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None))
def by_depth(definition: nnx.GraphDef, params: Tree, text: tuple[Array, Array]) -> Float[Array, " L"]:
    """Norm of the gradient of the loss with respect to the parameters of each layer."""
    gradient = jax.grad(lambda params: loss_of(merge(definition, params), *text))(params)
    leaves = jax.tree.leaves(gradient["layers"])  # [L, ...] each
    return jnp.sqrt(sum((leaf**2).sum(tuple(range(1, leaf.ndim))) for leaf in leaves))


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None))
def carousel(definition: nnx.GraphDef, params: Tree, tokens: Int[Array, "B T"]) -> dict[str, Array]:
    """The memory of an LSTM of one layer.

    Returns:
      `deviation` of the gradient of the last memory with respect to each before it, along the memory (what the gates
      owe to what was said is held fixed, as in Hochreiter and Schmidhuber), from the product of the forget gates
      between, relative, the largest; `forget`, the mean of these gates; `kept`, the mean of their product over all.
    """
    reader = merge(definition, params)
    (cell,) = layers(reader.layers, 1)
    inputs = jnp.swapaxes(cell.input(reader.embed(tokens)), 0, 1)  # [T, B, G]

    def step(state: LSTMState, given: tuple[Array, Array]) -> tuple[LSTMState, Array]:
        inputs, nudge = given
        state = LSTMState(jax.lax.stop_gradient(state.hidden), state.cell)
        new = cell.advance(inputs, state)
        return LSTMState(new.hidden, new.cell + nudge), cell.gates(inputs, state).forget

    def last(nudges: Float[Array, "T B D"]) -> tuple[Array, Array]:
        state, forget = jax.lax.scan(step, cell.initial_state(tokens.shape[0]), (inputs, nudges))
        return state.cell.sum(), forget

    nudges = jnp.zeros((*inputs.shape[:2], cell.width))
    gradient, forget = jax.grad(last, has_aux=True)(nudges)
    product = jnp.cumprod(forget[:0:-1], axis=0)[::-1]  # from each step's memory to the last
    deviation = jnp.abs(gradient[:-1] / product - 1).max()
    return {"deviation": deviation, "forget": forget.mean(), "kept": product[0].mean()}


@dataclass(frozen=True)
class TranscriberConfig:
    """A reader of images of digit strings.

    Attributes:
      core: of its decoder, "lstm" or "transformer", which have as many parameters, within 0.1 % of the whole.
    """

    core: str

    def build(self, *, rngs: nnx.Rngs) -> "Transcriber":
        return Transcriber(self, rngs=rngs)


class Transcriber(nnx.Module):
    """The same encoder of columns, and its decoder, teacher-forced with the digits that stand behind the pixels.

    Patches are cut already: their projection is then no convolution, whose gradient is slow in a loop on CPU.
    """

    def __init__(self, config: TranscriberConfig, *, rngs: nnx.Rngs):
        width, vocabulary = 48, BEGIN + 1
        blocks = TransformerConfig(width, 2, 4, 2 * width)
        encoder = VisionTransformerConfig(blocks, (SIDE, WIDTH), (SIDE, PATCH), channels=1, pooling="none")
        decoder = DecoderConfig(
            replace(blocks, depth=1), vocabulary, DIGITS, positions="sinusoidal", scale_embedding=True
        )
        built: EncoderDecoderConfig | ShowAttendTellConfig = EncoderDecoderConfig(encoder, decoder)
        if config.core == "lstm":
            built = ShowAttendTellConfig(encoder, vocabulary, 38, 32, width)
        self.model = built.build(rngs=rngs)

    def __call__(self, given: Float[Array, "B given"], *, train: bool) -> Float[Array, "B T V"]:
        columns, digits = given[:, :-DIGITS], given[:, -DIGITS:].astype(jnp.int32)
        columns = columns.reshape(len(columns), WIDTH // PATCH, -1)
        grids = jnp.tile(jnp.array([[1, columns.shape[1]]]), (len(columns), 1))
        prompt = jnp.pad(digits[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN)
        encoder = cast(VisionTransformer, self.model.encoder)  # which alone takes patches
        tokens = encoder.features(PackedPatches(columns, grids), train=train).tokens
        return self.model.decode(Encoded(tokens, None), prompt, train=train).logits


def transcribing(found: Strings) -> Examples:
    """What a `Transcriber` is given, and the digits it must name."""
    columns = PackedPatches.of(list(found.images), (SIDE, PATCH), length=WIDTH // PATCH).pixels
    return Examples(
        np.concatenate([columns.reshape(len(columns), -1), found.digits], axis=1, dtype=np.float32),
        found.digits,
    )


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, None))
def read_right(
    definition: nnx.GraphDef, params: Tree, given: Float[Array, "N given"], digits: Int[Array, "N T"]
) -> Float[Array, ""]:
    """Share of strings in which all digits are right: exactly those that greedy decoding gets right."""
    return (merge(definition, params)(given, train=False).argmax(-1) == digits).all(-1).mean()
