"""What one encoder layer costs: operations by XLA's count, memory by its plan, and time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vitjax.nn.attention import dot_product_attention
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.nn.stack import run_blocks, stack_blocks
from vitjax.studies.study import Spread
from vitjax.studies.timing import seconds

HEAD_WIDTH, DEPTH, CHUNK = 64, 4, 32  # features of a head; layers in training; queries at a time


@dataclass(frozen=True)
class Layer:
    """One layer on N tokens of D features, F = 4 D.

    Attributes:
      operations: forward, by XLA's count.
      memory: bytes it needs beside arguments and results.
      time, quadratic_time: seconds of the layer, and of its part that is quadratic: scores, softmax, weighted sum.
    """

    tokens: int
    width: int
    operations: float
    memory: int
    time: Spread | None = None
    quadratic_time: Spread | None = None

    @property
    def formula(self) -> int:
        """4 N D^2 + 2 N^2 D + 2 N D F."""
        n, d = self.tokens, self.width
        return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * 4 * d

    @property
    def quadratic_share(self) -> float:
        """Of the formula."""
        return 2 * self.tokens**2 * self.width / self.formula

    @property
    def attention_share(self) -> float:
        """Of the formula, the projections with it."""
        return 1 - 2 * self.tokens * self.width * 4 * self.width / self.formula

    @property
    def quadratic_time_share(self) -> Spread:
        """Of the time, by repetition."""
        assert self.time is not None and self.quadratic_time is not None
        pairs = zip(self.quadratic_time.values, self.time.values, strict=True)
        return Spread.of(part / whole for part, whole in pairs)


def counted(tokens: int, width: int) -> Layer:
    """A layer that is compiled, but not run."""
    program, _ = _layer(tokens, width)
    return Layer(tokens, width, program.cost_analysis()["flops"], _bytes(program))


def timed(sizes: list[tuple[int, int]], repeats: int) -> list[Layer]:
    """Layers of these tokens and widths, with their times."""
    runs: dict[tuple[int, int, str], Callable[[], Any]] = {}
    layers = []
    for tokens, width in sizes:
        program, arguments = _layer(tokens, width)
        query = _drawn(jax.ShapeDtypeStruct((1, tokens, width // HEAD_WIDTH, HEAD_WIDTH), jnp.float32))
        runs[tokens, width, "whole"] = partial(program, *arguments)
        runs[tokens, width, "quadratic"] = partial(jax.jit(dot_product_attention), query, query, query)
        layers.append(Layer(tokens, width, program.cost_analysis()["flops"], _bytes(program)))
    times = seconds(runs, repeats)
    return [
        Layer(
            each.tokens,
            each.width,
            each.operations,
            each.memory,
            times[each.tokens, each.width, "whole"],
            times[each.tokens, each.width, "quadratic"],
        )
        for each in layers
    ]


def crossing(layers: list[Layer]) -> float:
    """Tokens at which a N = b N^2, for operations a N + b N^2 by the first and the last layer."""
    few, many = layers[0], layers[-1]
    each_few, each_many = (layer.operations / layer.tokens for layer in (few, many))
    slope = (each_many - each_few) / (many.tokens - few.tokens)
    return (each_few - slope * few.tokens) / slope


def half_time(layers: list[Layer]) -> float:
    """Tokens at which the quadratic part is half of the time, between those measured."""
    shares = np.maximum.accumulate([each.quadratic_time_share.mean for each in layers])
    return float(np.exp(np.interp(0.5, shares, np.log([each.tokens for each in layers]))))


def exponent(layers: list[Layer], tokens: tuple[int, int]) -> Spread:
    """By which the time grows from one number of tokens to another."""
    few, many = (next(each.time for each in layers if each.tokens == count) for count in tokens)
    assert few is not None and many is not None
    ratio = np.log(tokens[1] / tokens[0])
    return Spread.of(np.log(b / a) / ratio for a, b in zip(few.values, many.values, strict=True))


def slope(values: list[int], tokens: tuple[int, ...]) -> float:
    """The exponent of growth between the two largest numbers of tokens."""
    return float(np.log(values[-1] / values[-2]) / np.log(tokens[-1] / tokens[-2]))


def attention_memory(tokens: int, width: int, *, chunked: bool) -> int:
    """Bytes that scores, softmax and weighted sum need, for all queries at once or for `CHUNK` at a time."""

    def whole(query: Float[Array, "1 N H C"]) -> Float[Array, "1 N H C"]:
        return dot_product_attention(query, query, query)

    def in_chunks(query: Float[Array, "1 N H C"]) -> Float[Array, "1 N H C"]:
        chunks = query.reshape(-1, 1, CHUNK, *query.shape[2:])
        return jax.lax.map(lambda some: dot_product_attention(some, query, query), chunks).reshape(
            query.shape
        )

    query = jax.ShapeDtypeStruct((1, tokens, width // HEAD_WIDTH, HEAD_WIDTH), jnp.float32)
    return _bytes(_planned(jax.jit(in_chunks if chunked else whole).lower(query)))


def training_memory(tokens: int, width: int, *, recomputed: bool) -> int:
    """Bytes that the gradient through `DEPTH` layers needs beside arguments and results."""
    config = _config(width, DEPTH, recomputed=recomputed)
    definition, params, _ = abstract(
        lambda rngs: stack_blocks(lambda rngs: EncoderBlock(config, rngs=rngs), DEPTH, rngs=rngs)
    )

    def loss(params: Tree, x: Float[Array, "1 N D"]) -> Array:
        blocks = merge(definition, params)
        out = run_blocks(blocks, x, config=config, train=True, key=None, return_weights=False)
        return jnp.sum(out.x**2)

    x = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    return _bytes(_planned(jax.jit(jax.grad(loss)).lower(params, x)))


def _config(width: int, depth: int, *, recomputed: bool = False) -> TransformerConfig:
    return TransformerConfig(
        width, depth, width // HEAD_WIDTH, 4 * width, remat="full" if recomputed else "none"
    )


def _layer(tokens: int, width: int) -> tuple[Any, tuple[Tree, Array]]:
    """A compiled forward pass and what it takes."""

    def build(rngs: nnx.Rngs) -> EncoderBlock:
        return EncoderBlock(_config(width, 1), rngs=rngs)

    definition, shapes, _ = abstract(build)
    params, x = (
        jax.tree.map(_drawn, each) for each in (shapes, jax.ShapeDtypeStruct((1, tokens, width), jnp.float32))
    )
    program = jax.jit(lambda params, x: merge(definition, params)(x, train=False).x)
    return program.lower(params, x).compile(), (params, x)


def _drawn(shape: jax.ShapeDtypeStruct) -> Array:
    """Any numbers: what they are changes no cost."""
    return jnp.asarray(np.random.default_rng(0).normal(0, 0.1, shape.shape), shape.dtype)


def _planned(lowered: Any) -> Any:
    """Compiled fast, for it is not run: where its arrays lie is decided before the code is optimised."""
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def _bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes
