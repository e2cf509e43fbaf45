"""What one encoder layer costs: operations by XLA's count, memory by its plan, and time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.nn.attention import dot_product_attention
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.nn.stack import run_blocks, stack_blocks
from vitjax.studies.lab.programs import seconds
from vitjax.studies.lab.study import Spread

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
    def terms(self) -> tuple[int, int, int]:
        """4 N D^2, 2 N^2 D and 2 N D F."""
        n, d = self.tokens, self.width
        return 4 * n * d**2, 2 * n**2 * d, 2 * n * d * 4 * d

    @property
    def quadratic_share(self) -> float:
        """Of the formula."""
        return self.terms[1] / sum(self.terms)

    @property
    def quadratic_time_share(self) -> Spread:
        """Of the time, at each repetition."""
        assert self.time is not None and self.quadratic_time is not None
        return ratio(self.quadratic_time, self.time)


def layers(sizes: list[tuple[int, int]], repeats: int) -> list[Layer]:
    """Layers of these tokens and widths; without times for no repeats, for then they are only compiled."""
    found, runs = [], {}
    for tokens, width in sizes:
        program, shapes = _forward(tokens, width)
        found.append(Layer(tokens, width, program.cost_analysis()["flops"], _bytes(program)))
        if repeats:
            query = _drawn(_queries(tokens, width))
            runs[tokens, width, "whole"] = partial(program, *jax.tree.map(_drawn, shapes))
            runs[tokens, width, "quadratic"] = partial(jax.jit(dot_product_attention), query, query, query)
    times = seconds(runs, repeats)
    return [
        replace(
            each,
            time=times.get((each.tokens, each.width, "whole")),
            quadratic_time=times.get((each.tokens, each.width, "quadratic")),
        )
        for each in found
    ]


def crossing(layers: list[Layer]) -> float:
    """Tokens at which a N = b N^2, for operations a N + b N^2 by the first and the last layer."""
    few, many = layers[0], layers[-1]
    each_few, each_many = (layer.operations / layer.tokens for layer in (few, many))
    growth = (each_many - each_few) / (many.tokens - few.tokens)
    return (each_few - growth * few.tokens) / growth


def half_time(layers: list[Layer]) -> float:
    """Tokens at which the quadratic part is half of the time, between those measured."""
    shares = np.maximum.accumulate([each.quadratic_time_share.mean for each in layers])
    return float(np.exp(np.interp(0.5, shares, np.log([each.tokens for each in layers]))))


def exponent(layers: list[Layer], tokens: tuple[int, int], *, quadratic_part: bool = False) -> Spread:
    """By which the time of a layer, or of its quadratic part, grows from one number of tokens to another."""
    times = {each.tokens: each.quadratic_time if quadratic_part else each.time for each in layers}
    few, many = (times[count] for count in tokens)
    assert few is not None and many is not None
    return Spread.of(np.log(ratio(many, few).values) / np.log(tokens[1] / tokens[0]))


def ratio(one: Spread, other: Spread) -> Spread:
    """One divided by the other, at each seed or repetition."""
    return Spread.of(a / b for a, b in zip(one.values, other.values, strict=True))


def attention_memory(tokens: int, width: int, *, chunked: bool) -> int:
    """Bytes that scores, softmax and weighted sum need, for all queries at once or for `CHUNK` at a time."""

    def attention(query: Float[Array, "1 N H C"]) -> Float[Array, "1 N H C"]:
        if not chunked:
            return dot_product_attention(query, query, query)
        chunks = query.reshape(-1, 1, CHUNK, *query.shape[2:])
        return jax.lax.map(lambda some: dot_product_attention(some, query, query), chunks).reshape(
            query.shape
        )

    return _planned(attention, _queries(tokens, width))


def training_memory(tokens: int, width: int, *, recomputed: bool) -> int:
    """Bytes that the gradient through `DEPTH` layers needs beside arguments and results."""
    config = replace(_config(width, DEPTH), remat="full" if recomputed else "none")
    definition, params, _ = abstract(
        lambda rngs: stack_blocks(lambda rngs: EncoderBlock(config, rngs=rngs), DEPTH, rngs=rngs)
    )

    def loss(params: Tree, x: Float[Array, "1 N D"]) -> Array:
        blocks = merge(definition, params)
        out = run_blocks(blocks, x, config=config, train=True, key=None, return_weights=False)
        return jnp.sum(out.x**2)

    return _planned(jax.grad(loss), params, jax.ShapeDtypeStruct((1, tokens, width), jnp.float32))


def _forward(tokens: int, width: int) -> tuple[Any, Any]:
    """The compiled layer, and the shapes of its parameters and tokens."""
    definition, params, _ = abstract(lambda rngs: EncoderBlock(_config(width, 1), rngs=rngs))
    shapes = params, jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    program = jax.jit(lambda params, x: merge(definition, params)(x, train=False).x)
    return program.lower(*shapes).compile(), shapes


def _config(width: int, depth: int) -> TransformerConfig:
    return TransformerConfig(width, depth, width // HEAD_WIDTH, 4 * width)


def _queries(tokens: int, width: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, tokens, width // HEAD_WIDTH, HEAD_WIDTH), jnp.float32)


def _drawn(shape: jax.ShapeDtypeStruct) -> Array:
    """Any numbers: what they are changes no cost."""
    return jnp.asarray(np.random.default_rng(0).normal(0, 0.1, shape.shape), shape.dtype)


def _planned(function: Callable[..., Any], *shapes: Any) -> int:
    """Bytes of a program compiled in haste: where its arrays lie is decided before its code is optimised."""
    lowered = jax.jit(function).lower(*shapes)
    return _bytes(lowered.compile(compiler_options={"xla_backend_optimization_level": 0}))


def _bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes
