"""Order blindness without positions: exact in an encoder, not in a causal decoder."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from matplotlib.figure import Figure

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PositionKind
from vitjax.nn.functional import Tree, merge
from vitjax.studies.drawing import COLORS
from vitjax.studies.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.training import fresh

LENGTHS = {"reduced": 8, "full": 64, "long": 512}
KINDS: dict[Size, tuple[PositionKind, ...]] = {"reduced": ("none", "learned", "rotary")}  # else all
VOCABULARY, WIDTH = 32, 64
ROUNDING = 1e-5  # what sums in another order may differ by in float32, in deviations of the output


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Shuffle the tokens; see whether the output is more than shuffled."""
    length = LENGTHS[size]
    depths = (1, 2) if size == "reduced" else (1, 2, 4)
    kinds = KINDS.get(size, get_args(PositionKind))
    encoders = {kind: _encoder_difference(kind, length, seeds) for kind in kinds}
    decoders = {depth: _decoder_difference(depth, length, seeds) for depth in depths}
    rows: list[tuple] = [(f"encoder, {kind}", 2, "all", spread) for kind, spread in encoders.items()]
    rows += [
        ("causal decoder, none", depth, "last token, those before it shuffled", spread)
        for depth, spread in decoders.items()
    ]
    checks = (
        Check(
            "without positions, shuffling an encoder's tokens only shuffles its output",
            encoders["none"],
            "deviations, at most",
            at_most=ROUNDING,
            essential=True,
        ),
        Check(
            "with any kind of positions it changes the output (least of all kinds)",
            Spread.of(
                map(min, zip(*(s.values for kind, s in encoders.items() if kind != "none"), strict=True))
            ),
            "deviations",
            at_least=100 * ROUNDING,
            essential=True,
        ),
        Check(
            "a causal decoder of one layer without positions does not see the order of the tokens before",
            decoders[1],
            "deviations",
            at_most=ROUNDING,
        ),
        Check("nor does one of two layers", decoders[2], "deviations", at_most=ROUNDING),
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        named = {f"encoder\n{kind}": spread for kind, spread in encoders.items()}
        named |= {
            f"causal\ndecoder\nnone\n{depth} layer{'s' * (depth > 1)}": spread
            for depth, spread in decoders.items()
        }
        floor = 1e-8
        for place, spread in enumerate(named.values()):
            color = COLORS[1] if spread.mean > ROUNDING else COLORS[0]
            axes.bar(place, max(spread.mean, floor), color=color, width=0.6)
            axes.vlines(place, max(spread.low, floor), max(spread.high, floor), color="#888888", lw=3)
        axes.axhline(ROUNDING, color=COLORS[2], ls="--", lw=1.2, label="float32 rounding (bound)")
        axes.set_xticks(range(len(named)), list(named))
        axes.set(
            xlabel="model and its positions",
            ylabel="difference that order makes\n(deviations of the output)",
            yscale="log",
            ylim=(floor, 30),
        )
        axes.legend()

    return Result(
        Table(
            ("model, positions", "layers", "compared tokens", "largest difference (deviations)"), tuple(rows)
        ),
        checks,
        "An encoder without positions cannot tell one order of its tokens from another: shuffle them and the same "
        f"vectors come out shuffled, to {encoders['none'].high:.0e} deviations, which is rounding. A causal decoder "
        "is another matter. Its mask says how many tokens each token may see, so from the second layer on the order "
        "is known, without any positions: shuffling the past changes what the last token says by "
        f"{decoders[2].mean:.1g} deviations with two layers, and by nothing with one.",
        draw,
        "Largest difference between the output for shuffled tokens and the shuffled output, in deviations of the "
        "output. Red: order is seen. Grey lines: lowest to highest seed.",
    )


def _transformer(depth: int) -> TransformerConfig:
    return TransformerConfig(WIDTH, depth, 4, 2 * WIDTH)


def _encoder_difference(kind: PositionKind, length: int, seeds: tuple[int, ...]) -> Spread:
    config = TextEncoderConfig(_transformer(2), VOCABULARY, length, positions=kind)
    definition, params, _ = fresh(lambda rngs: config.build(rngs=rngs), seeds)

    @jax.jit
    @jax.vmap
    def difference(params: Tree, tokens: Int[Array, "1 T"], order: Int[Array, " t"]) -> Array:
        model = merge(definition, params)
        plain, _ = model.encode(tokens, train=False)
        shuffled, _ = model.encode(tokens[:, order], train=False)
        return jnp.abs(shuffled - plain[:, order]).max() / plain.std()

    return Spread.of(difference(params, *_shuffles(length, seeds)))


def _decoder_difference(depth: int, length: int, seeds: tuple[int, ...]) -> Spread:
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


STUDY = Study(
    name="positions",
    claim="Attention has no notion of order: without position encodings a Transformer sees a bag of tokens.",
    method=(
        "Fresh models read random tokens and the same tokens shuffled. For an encoder the output is compared with "
        "its own shuffled likewise; for a causal decoder the logits after the last token, which stays in place. "
        "Differences are the largest over all numbers, in standard deviations of the output."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.5",
        "Haviv et al. 2022, Transformer Language Models without Positional Encodings Still Learn Positional "
        "Information",
    ),
    run=run,
)
