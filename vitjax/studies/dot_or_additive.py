"""Dot-product against additive attention: operations, memory, time and accuracy as width and length grow."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.attention import MultiHeadAttention, Score
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge, split
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.drawing import COLORS, curve
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Examples, trained

DOT, PLAIN, ADDITIVE = "dot", "dot, not scaled", "additive"
KINDS = (DOT, PLAIN, ADDITIVE)
NAMES, ROUNDS = 16, 9  # of tokens; timings of each layer in turns
LARGE = 64  # d_k from which scaling should matter

FORWARD, TRAINING = 0, 1  # programs of a layer

Shape = tuple[int, int]  # tokens, width of the one head


@dataclass(frozen=True)
class Setting:
    """Layers to time, from small to large, and models to train; a digit is read as 17 tokens.

    Attributes:
      longer, wider: shapes of layers.
      learned: shapes of models that name the token before.
      digits: widths of models that read digits.
      rates: of learning; each model is trained with each, and the better counts.
      naming, reading: steps of training.
    """

    longer: tuple[Shape, ...] = ((64, 64), (128, 64), (256, 64), (512, 64))
    wider: tuple[Shape, ...] = ((256, 16), (256, 64), (256, 256))
    learned: tuple[Shape, ...] = ((12, 32), (12, 128), (32, 64))
    digits: tuple[int, ...] = (64,)
    rates: tuple[float, ...] = (1e-3, 5e-3)
    naming: int = 300
    reading: int = 600


FULL = Setting()
SETTINGS = {
    "reduced": Setting(((256, 64),), ((256, 16), (256, 64)), ((8, 64),), (), (5e-3,), naming=150),
    "full": FULL,
    "long": Setting(
        longer=((64, 64), (256, 64), (1024, 64)),
        wider=((256, 16), (256, 64), (256, 256), (256, 1024)),
        learned=((12, 32), (12, 256), (12, 64), (12, 128), (32, 64), (64, 64)),
        digits=(16, 64, 256),
        naming=1500,
        reading=3000,
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of one layer: what additive attention takes, as a multiple of what dot-product attention takes.

    Attributes:
      operations: forward, counted by the compiler, tanh and exp as one each.
      memory, training_memory: that the program needs for itself, forward and with the backward pass.
      megabytes: with the backward pass, of dot-product and of additive attention.
      time, training_time: medians.
    """

    operations: float
    memory: float
    training_memory: float
    megabytes: tuple[float, float]
    time: Spread
    training_time: Spread


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Count and time single layers; train small models of three kinds."""
    setting = SETTINGS[size]
    costs = {shape: _cost(*shape, seeds) for shape in dict.fromkeys(setting.longer + setting.wider)}
    named = {
        shape: _best(setting.rates, setting.naming, seeds, *_naming(*shape)) for shape in setting.learned
    }
    read = {width: _best(setting.rates, setting.reading, seeds, *_reading(width)) for width in setting.digits}
    longest, widest, narrowest = (
        costs[shape] for shape in (setting.longer[-1], setting.wider[-1], setting.wider[0])
    )

    def points(found: dict[str, Spread], kind: str, over: str) -> Spread:
        """Of accuracy, in percentage points."""
        pairs = zip(found[kind].values, found[over].values, strict=True)
        return Spread.of(100 * (more - less) for more, less in pairs)

    rows: list[tuple[Cell, ...]] = [
        (f"{tokens} x {width}", c.operations, c.training_memory, c.time, c.training_time, "-", "-", "-")
        for (tokens, width), c in costs.items()
    ]
    rows += [
        (f"{tokens} x {width}, token before", *"----", *found.values())
        for (tokens, width), found in named.items()
    ]
    rows += [(f"17 x {width}, digits", *"----", *found.values()) for width, found in read.items()]
    checks = [
        Check(
            "alike in theoretical complexity: operations at every length and width, most",
            Spread((max(cost.operations for cost in costs.values()),)),
            "times those of dot-product attention",
            at_most=2.0,
            essential=True,
        ),
        Check(
            f"dot-product attention is faster ({setting.longer[-1][0]} tokens)",
            longest.time,
            "times its time",
            at_least=1.5,
            essential=True,
        ),
        Check("it is so in training too", longest.training_time, "times its time", at_least=1.5),
        Check(
            "it takes less memory",
            Spread((longest.memory,)),
            "times its memory",
            at_least=2.0,
            essential=True,
        ),
        Check("less in training too", Spread((longest.training_memory,)), "times its memory", at_least=2.0),
        Check(
            "that is a constant factor, the complexity being alike: from the narrowest to the widest head it grows by",
            Spread((widest.memory / narrowest.memory,)),
            "times",
            at_most=2.0,
        ),
    ]
    for (tokens, width), found in named.items():
        place = f"at d_k = {width} ({tokens} tokens)"
        if width < LARGE:
            plain = points(found, PLAIN, ADDITIVE)
            checks.append(
                Check(f"{place} they are alike, scaled or not", plain, "percentage points", at_least=-1.0)
            )
        else:
            better, scaled = points(found, ADDITIVE, PLAIN), points(found, DOT, ADDITIVE)
            checks += [
                Check(f"{place} additive is more accurate", better, "percentage points", at_least=2.0),
                Check(f"{place} scaling makes up for that", scaled, "percentage points", at_least=-1.0),
            ]
    checks += [
        Check(
            "so too on digits", points(found, DOT, ADDITIVE), "percentage points over additive", at_least=-1.0
        )
        for found in read.values()
    ]

    def draw(figure: Figure) -> None:
        by_length, by_width, accuracy = figure.subplots(1, 3)
        for axes, shapes, which in ((by_length, setting.longer, 0), (by_width, setting.wider, 1)):
            x = [shape[which] for shape in shapes]
            lines = {
                "operations": [Spread((costs[shape].operations,)) for shape in shapes],
                "memory": [Spread((costs[shape].training_memory,)) for shape in shapes],
                "time": [costs[shape].training_time for shape in shapes],
            }
            for place, (label, spreads) in enumerate(lines.items()):
                curve(axes, x, spreads, label, place)
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(each) for each in x])
            axes.set(ylabel="additive / dot (times), training", yscale="log", ylim=(0.9, 300))
            axes.legend(loc="upper left")
        by_length.set(xlabel="tokens", title=f"a layer, d_k = {setting.longer[0][1]}")
        by_width.set(xlabel="d_k (features of a head)", title=f"a layer, {setting.wider[0][0]} tokens")
        groups = {f"{tokens}\nd_k\n{width}": found for (tokens, width), found in named.items()}
        groups |= {f"digit\nd_k\n{width}": found for width, found in read.items()}
        for group, found in enumerate(groups.values()):
            for place, (kind, spread) in enumerate(found.items()):
                at, name = group + 0.27 * (place - 1), None if group else kind
                accuracy.bar(at, spread.mean, width=0.25, color=COLORS[place], label=name)
                accuracy.vlines(at, spread.low, spread.high, color="#888888", lw=2)
        accuracy.set_xticks(range(len(groups)), list(groups))
        accuracy.set(
            xlabel="tokens, width", ylabel="accuracy (fraction)", title="trained models", ylim=(0, 1.45)
        )
        accuracy.legend(loc="upper left")

    sentences = [
        f"Both do much the same arithmetic: additive attention at most {checks[0].measured.high:.2f} times the "
        "operations, a tanh counted as one.",
        f"But for each pair of tokens it makes a vector of d_k numbers where the dot product makes one: at "
        f"{setting.longer[-1][0]} tokens and d_k = {setting.longer[-1][1]} it took {longest.time.mean:.0f} times as "
        f"long, {longest.training_time.mean:.0f} times in training, and {longest.megabytes[1]:.0f} MB where "
        f"{longest.megabytes[0]:.1f} do.",
        "So in memory the complexity is not alike: the factor levels off with the length but grows with d_k, from "
        f"{narrowest.memory:.0f} at {setting.wider[0][1]} to {widest.memory:.0f} at {setting.wider[-1][1]}. A kernel "
        "that keeps the vectors in registers could avoid that, not the tanh of each of their numbers.",
    ]
    unscaled = ", ".join(
        f"{found[PLAIN].mean:.2f} (d_k = {width}, {tokens} tokens)"
        for (tokens, width), found in named.items()
    )
    others = min(found[kind].low for found in named.values() for kind in (DOT, ADDITIVE))
    sentences.append(
        f"Naming the token before, plain dot products come to {unscaled}; scaled ones and additive attention always to "
        f"{others:.2f} or more."
    )
    for found in read.values():
        behind = points(found, ADDITIVE, DOT)
        sentences.append(
            f"On digits the only head of a layer reads {found[PLAIN].mean:.3f} with plain dot products, "
            f"{found[DOT].mean:.3f} with scaled ones and {found[ADDITIVE].mean:.3f} if additive, {behind.low:.1f} to "
            f"{behind.high:.1f} points more than scaled; models have many heads, which is not compared here."
        )
    return Result(
        Table(
            (
                "tokens x d_k",
                "operations (additive / dot)",
                "memory, training (additive / dot)",
                "time (additive / dot)",
                "time, training (additive / dot)",
                *(f"accuracy, {kind} (fraction)" for kind in KINDS),
            ),
            tuple(rows),
        ),
        tuple(checks),
        " ".join(sentences),
        draw,
        "What additive attention takes, as a multiple of dot-product attention, in a training step of one layer, and "
        "accuracy of trained models.",
    )


def _kind(base: TransformerConfig, kind: str) -> TransformerConfig:
    """The bias of additive keys would only repeat that of queries: left out, it makes room for the score's kernel."""
    changes: dict[str, dict[str, Any]] = {
        DOT: {},
        PLAIN: {"query_key_scale": 1.0},
        ADDITIVE: {"attention_score": "additive", "qkv_bias": "query_value"},
    }
    return replace(base, **changes[kind])


def _cost(tokens: int, width: int, seeds: tuple[int, ...]) -> Cost:
    """Compile and time one layer of one head of both kinds."""
    programs = {score: _programs(score, tokens, width) for score in ("dot", "additive")}

    def ratio(measure: Callable[[jax.stages.Compiled], float], which: int) -> float:
        return measure(programs["additive"][which][0]) / measure(programs["dot"][which][0])

    def operations(program: jax.stages.Compiled) -> float:
        counts = program.cost_analysis()
        assert counts is not None  # every backend of ours counts
        return counts["flops"] + counts["transcendentals"]

    def memory(program: jax.stages.Compiled) -> float:
        analysis = program.memory_analysis()
        assert analysis is not None
        return float(analysis.temp_size_in_bytes)

    def seconds(which: int) -> Spread:
        taken: dict[str, list[float]] = {score: [] for score in programs}
        ratios = []
        for _ in seeds:
            for _ in range(ROUNDS):
                for score, found in programs.items():
                    program, *arguments = found[which]
                    start = time.perf_counter()
                    jax.block_until_ready(program(*arguments))
                    taken[score].append(time.perf_counter() - start)
            ratios.append(median(taken["additive"][-ROUNDS:]) / median(taken["dot"][-ROUNDS:]))
        return Spread.of(ratios)

    dot, additive = (memory(found[TRAINING][0]) / 1e6 for found in programs.values())
    return Cost(
        ratio(operations, FORWARD),
        ratio(memory, FORWARD),
        ratio(memory, TRAINING),
        (dot, additive),
        seconds(FORWARD),
        seconds(TRAINING),
    )


def _programs(score: Score, tokens: int, width: int) -> tuple[tuple, ...]:
    """Compiled forward pass, and forward with backward pass, of a layer, each with its arguments."""
    layer = MultiHeadAttention(width, 1, score=score, rngs=nnx.Rngs(0))
    definition, params, _ = split(layer)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, tokens, width)), jnp.float32)

    def forward(params: Tree, x: Float[Array, "1 T D"]) -> Float[Array, "1 T D"]:
        return merge(definition, params)(x, train=False).values

    def backward(params: Tree, x: Float[Array, "1 T D"]) -> tuple[Tree, Array]:
        return jax.grad(lambda params, x: (forward(params, x) ** 2).sum(), argnums=(0, 1))(params, x)

    return tuple((jax.jit(each).lower(params, x).compile(), params, x) for each in (forward, backward))


Build = Callable[[str], Callable[[nnx.Rngs], nnx.Module]]  # a model of a kind


def _best(
    rates: tuple[float, ...],
    steps: int,
    seeds: tuple[int, ...],
    build: Build,
    learned: Examples,
    held_out: Examples,
) -> dict[str, Spread]:
    """Accuracy of each kind at the learning rate that suits it best."""

    def accuracy(kind: str, rate: float) -> Spread:
        return trained(build(kind), learned, seeds, steps=steps, rate=rate).accuracy(held_out)

    return {
        kind: max((accuracy(kind, rate) for rate in rates), key=lambda spread: spread.mean) for kind in KINDS
    }


def _naming(length: int, width: int) -> tuple[Build, Examples, Examples]:
    """Models that name the token before, and sequences."""

    def build(kind: str) -> Callable[[nnx.Rngs], Tagger]:
        config = TextEncoderConfig(_kind(TransformerConfig(width, 1, 1, width), kind), NAMES, length)
        return lambda rngs: Tagger(config, rngs=rngs)

    return build, *sequences([before(1)], vocabulary=NAMES, length=length)


def _reading(width: int) -> tuple[Build, Examples, Examples]:
    """Models that read digits, and digits."""

    def build(kind: str) -> Callable[[nnx.Rngs], nnx.Module]:
        transformer = _kind(TransformerConfig(width, 2, 1, 2 * width), kind)
        config = VisionTransformerConfig(transformer, (8, 8), (2, 2), channels=1, num_classes=10)
        return config

    return build, *digit_examples()


STUDY = Study(
    name="dot-or-additive",
    claim=(
        "Dot-product and additive attention are alike in theoretical complexity, but dot-product attention is much "
        "faster and takes less memory; without scaling, additive attention is more accurate for large d_k."
    ),
    method=(
        "Layers of one head, additive or dot-product, are compiled: operations and temporary memory are the "
        "compiler's counts; times are medians of runs in turns, once for each seed. Then models with equally many "
        "parameters are trained with Adam, each with two learning rates of which the better counts: one layer that "
        f"names at each of 12 or 32 random tokens, out of {NAMES}, the one before ({FULL.naming} steps), and a "
        f"two-layer ViT that reads handwritten digits of 8 x 8 pixels ({FULL.reading} steps). d_k is the width of the "
        "model."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.1",
        "Bahdanau et al. 2015, Neural Machine Translation by Jointly Learning to Align and Translate",
        "Britz et al. 2017, Massive Exploration of Neural Machine Translation Architectures",
    ),
    run=run,
)
