"""How much the order of its tokens changes what a fresh model says."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PositionKind
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.study import Spread
from vitjax.studies.lab.training import fresh

VOCABULARY, WIDTH = 32, 64


def _transformer(depth: int) -> TransformerConfig:
    return TransformerConfig(WIDTH, depth, 4, 2 * WIDTH)


def of_encoder(kind: PositionKind, length: int, seeds: tuple[int, ...]) -> Spread:
    """Largest difference between the output for shuffled tokens and the shuffled output, in deviations of it."""
    config = TextEncoderConfig(_transformer(2), VOCABULARY, length, positions=kind)
    definition, params, _ = fresh(config, seeds)

    @jax.jit
    @jax.vmap
    def difference(params: Tree, tokens: Int[Array, "1 T"], order: Int[Array, " t"]) -> Array:
        model = merge(definition, params)
        plain, _ = model.encode(tokens, train=False)
        shuffled, _ = model.encode(tokens[:, order], train=False)
        return jnp.abs(shuffled - plain[:, order]).max() / plain.std()

    return Spread.of(difference(params, *_shuffles(length, seeds)))


def of_decoder(depth: int, length: int, seeds: tuple[int, ...]) -> Spread:
    """Largest difference of the last token's logits that shuffling those before makes, in deviations of them."""
    config = DecoderConfig(_transformer(depth), VOCABULARY, length, positions="none")
    definition, params, _ = fresh(
        lambda rngs: TransformerDecoder(config, context_width=WIDTH, rngs=rngs), seeds
    )

    @jax.jit
    @jax.vmap
    def difference(params: Tree, tokens: Int[Array, "1 T"], order: Int[Array, " t"]) -> Array:
        shuffled = tokens.at[:, :-1].set(tokens[:, order])
        model, context = merge(definition, params), jnp.zeros((1, 1, WIDTH))
        plain, other = (model(each, context, train=False).logits[0, -1] for each in (tokens, shuffled))
        return jnp.abs(plain - other).max() / plain.std()

    return Spread.of(difference(params, *_shuffles(length, seeds, kept=1)))


def _shuffles(
    length: int, seeds: tuple[int, ...], kept: int = 0
) -> tuple[Int[np.ndarray, "seeds 1 T"], Int[np.ndarray, "seeds t"]]:
    """Tokens of each seed, and an order of all but the last `kept` of them."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    tokens = np.stack([rng.integers(0, VOCABULARY, (1, length)) for rng in generators])
    return tokens, np.stack([rng.permutation(length - kept) for rng in generators])
