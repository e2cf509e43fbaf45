"""The feed-forward network: its share of parameters, operations and accuracy, its reach, and its activation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from textwrap import fill

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.analysis.complexity import Complexity, complexity
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.feedforward import Activation
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import bars, panel
from vitjax.studies.lab.sequences import Tagger, Tokens, before, sequences
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, fresh, trained

VIT_B = VisionTransformerConfig(TransformerConfig(768, 12, 12, 3072), (224, 224), (16, 16), num_classes=1000)
SIDES = (64, 128, 256, 512, 1024)  # of its images in the figure, in pixels
RELU, GELU, SWIGLU, NONE = "ReLU", "GELU", "SwiGLU", "no feed-forward"
LATE, INSTEAD = "none, twice the steps", "more attention instead"
MODELS: dict[str, tuple[Activation, int, int]] = {  # activation, neurons a feature, layers
    RELU: ("relu", 3, 2),
    GELU: ("gelu", 3, 2),
    SWIGLU: ("swiglu", 2, 2),  # three matrices for two
    NONE: ("relu", 0, 2),
    LATE: ("relu", 0, 2),
    INSTEAD: ("relu", 0, 5),  # of 4 D * D weights, as many as two of (4 + 6) D * D
}
FAR, SUM, DIGITS = "a token far before", "the sum of two tokens", "digits"
POINTS = "percentage points"
RATE = 5e-3  # of learning


@dataclass(frozen=True)
class Setting:
    """Which models are trained on which tasks, and in how many steps; sequences have `length` tokens of `names`."""

    models: tuple[str, ...] = tuple(MODELS)
    tasks: tuple[str, ...] = (FAR, SUM, DIGITS)
    width: int = 64
    names: int = 24
    length: int = 16
    steps: int = 350


FULL = Setting()
SETTINGS = {
    "reduced": Setting((RELU, NONE), (FAR, SUM), width=32, names=8, length=8, steps=250),
    "full": FULL,
    "long": Setting(steps=1500),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Count, differentiate, and train with the network, without it, and with attention in its place."""
    setting = SETTINGS[size]
    tasks, width = setting.tasks, setting.width
    learned, held_out = digit_examples()
    accuracy: dict[tuple[str, str], Spread] = {}
    loss: dict[str, Spread] = {}
    shares = {"ViT-B/16": _shares(complexity(VIT_B))}
    for name in setting.models:
        activation, neurons, layers = MODELS[name]
        blocks = TransformerConfig(width, layers, 4, neurons * width, activation=activation)
        reader = digit_vit(blocks)
        shares[name] = _shares(complexity(reader))
        steps = setting.steps * (2 if name == LATE else 1)
        accuracy[name, FAR], accuracy[name, SUM], loss[name] = _naming(blocks, setting, steps, seeds)
        if DIGITS in tasks:
            model = trained(reader, learned, seeds, steps=steps, rate=RATE)
            accuracy[name, DIGITS] = model.accuracy(held_out)
    of_others, attention = _reach(setting.width, seeds)
    parameters, operations = shares["ViT-B/16"]

    def gained(by: str, over: str, task: str) -> Spread:
        return 100 * (accuracy[by, task] - accuracy[over, task])

    checks = [
        Check(
            "it works on each token alone: its output has no derivative by another token",
            of_others,
            "of that by its own",
            at_least=0.0,
            at_most=0.0,
            essential=True,
        ),
        Check("the test can fail: attention has some", attention, "of that by its own", at_least=1e-3),
        Check(
            "it is the smaller part of a ViT-B/16 (parameters)", parameters, "%", at_most=50.0, essential=True
        ),
        Check("so too of the operations at 224 x 224 pixels", operations, "%", at_most=50.0),
        Check(
            f"it is in the way of long distances: without it {FAR} is named better",
            gained(NONE, RELU, FAR),
            POINTS,
            at_least=1.0,
            essential=True,
        ),
        Check(f"little is lost without it: naming {SUM}", gained(RELU, NONE, SUM), POINTS, at_most=5.0),
    ]
    sentences = [
        f"It is not the minor part: in a ViT-B/16 it has {parameters.mean:.0f} % of the parameters and "
        f"{operations.mean:.0f} % of the operations, and attention does more only from "
        f"{2 * VIT_B.transformer.width:,} tokens on.",
        "Nor is it a bottleneck over distance, for distance is none of its business: its output at a token has a "
        f"derivative of {of_others.high:g} by any other. What carries over distance is attention: {FAR} is named in "
        f"{accuracy[RELU, FAR].mean:.3f} of all cases with the network and in {accuracy[NONE, FAR].mean:.3f} without.",
        "It helps to compute with what attention has brought: after the same training two tokens are added modulo "
        f"{setting.names} in {accuracy[RELU, SUM].mean:.2f} of all cases with it and in "
        f"{accuracy[NONE, SUM].mean:.2f} without, where guessing has {1 / setting.names:.2f}.",
    ]
    if DIGITS in tasks:
        read = {name: accuracy[name, DIGITS] for name in setting.models}
        points, apart = (
            100 / len(held_out.answers),
            max(100 * (each.high - each.low) for each in read.values()),
        )
        checks += [
            Check("so too with more attention instead", gained(RELU, INSTEAD, SUM), POINTS, at_most=5.0),
            Check("so too after twice the steps", gained(RELU, LATE, SUM), POINTS, at_most=5.0),
            Check("little is lost on digits", gained(RELU, NONE, DIGITS), POINTS, at_most=5.0),
            *(
                Check(f"{name} reads them better than ReLU", gained(name, RELU, DIGITS), POINTS, at_least=1.0)
                for name in (GELU, SWIGLU)
            ),
            *(
                Check(
                    f"{name} learns the tokens sooner", loss[name] / loss[RELU], "of ReLU's loss", at_most=0.9
                )
                for name in (GELU, SWIGLU)
            ),
        ]
        sentences += [
            f"With its parameters in more layers of attention it is {accuracy[INSTEAD, SUM].mean:.2f}. What attention "
            f"needs is time: without the network it is {accuracy[LATE, SUM].mean:.2f} after twice the steps.",
            f"Small digits are read in {read[RELU].mean:.3f} of all cases with ReLU, {read[GELU].mean:.3f} with GELU, "
            f"{read[SWIGLU].mean:.3f} with SwiGLU and {read[NONE].mean:.3f} without the network. One digit is "
            f"{points:.2f} points and seeds of one model lie up to {apart:.1f} apart: smaller differences say nothing.",
            f"While the tokens are learned the loss is, on average, {loss[RELU].mean:.2f} nats with ReLU, "
            f"{loss[GELU].mean:.2f} with GELU and {loss[SWIGLU].mean:.2f} with SwiGLU; what these gain in large models "
            "is not measured here.",
        ]

    def draw(figure: Figure) -> None:
        share, after = figure.subplots(1, 2, width_ratios=(2, 3))
        flops = [complexity(VIT_B, image_size=(side, side)).flops for side in SIDES]
        panel(
            share,
            [(side // 16) ** 2 for side in SIDES],
            {
                part.replace("_", " "): [Spread((100 * each[part] / sum(each.values()),)) for each in flops]
                for part in ("feed_forward", "attention_projections", "attention_scores")
            },
            xlabel="patches of an image (number)",
            ylabel="operations (% of all)",
            title="a ViT-B/16",
            log="x",
            ylim=(0, 100),
        )
        bars(
            after,
            [fill(task, 14) for task in tasks],
            {name: [accuracy[name, task] for task in tasks] for name in setting.models},
            xlabel="what is to be named (task)",
            ylabel="accuracy (fraction)",
            title="small models after training",
            legend=None,
            ylim=(0, 1.35),
        )
        after.legend(ncols=2, loc="upper center")

    columns = ("model", "feed-forward's share of parameters (%)", "of operations (%)")
    rows = tuple(
        (name, *both, *(accuracy.get((name, task), "-") for task in tasks)) for name, both in shares.items()
    )
    return Result(
        Table((*columns, *(f"{task} (fraction right)" for task in tasks)), rows),
        tuple(checks),
        " ".join(sentences),
        draw,
        "Left: who does the operations of a ViT-B/16, by the number of patches. Right: accuracy of small models with "
        "and without feed-forward networks; the sum is that of a token and one far before it.",
    )


def _shares(count: Complexity) -> tuple[Spread, Spread]:
    """Of the feed-forward networks in all parameters and operations, in percent."""
    parameters, operations = (
        Spread((100 * parts["feed_forward"] / sum(parts.values()),))
        for parts in (count.parameters, count.flops)
    )
    return parameters, operations


def _reach(width: int, seeds: tuple[int, ...]) -> tuple[Spread, Spread]:
    """Largest derivative by another token, of the largest by its own: of a feed-forward network and of attention."""
    config = TransformerConfig(width, 1, 4, 3 * width, activation="relu")
    definition, params, _ = fresh(Build(partial(EncoderBlock, config)), seeds)
    x = np.random.default_rng(0).normal(size=(8, width)).astype(np.float32)
    own = np.eye(len(x), dtype=bool)

    def reach(layer: Callable[[Float[Array, "1 N D"]], Float[Array, "1 N D"]]) -> Array:
        largest = jnp.abs(jax.jacrev(lambda x: layer(x[None])[0])(x)).max((1, 3))  # of [N, D, N, D]
        return jnp.where(own, 0, largest).max() / jnp.where(own, largest, 0).max()

    @jax.jit
    @jax.vmap
    def measured(params: Tree) -> tuple[Array, Array]:
        block = merge(definition, params)
        of_feed_forward = reach(lambda x: block.feed_forward(x, train=False))
        return of_feed_forward, reach(lambda x: block.attention(x, train=False).values)

    of_feed_forward, of_attention = measured(params)
    return Spread.of(of_feed_forward), Spread.of(of_attention)


def _naming(
    blocks: TransformerConfig, setting: Setting, steps: int, seeds: tuple[int, ...]
) -> tuple[Spread, Spread, Spread]:
    """Accuracy of naming the token half-way round, of its sum with the own, and the loss, mean over all steps."""
    far = before(setting.length // 2)

    def total(tokens: Tokens) -> Tokens:
        return (tokens + far(tokens)) % setting.names

    @jax.jit
    @jax.vmap
    def right(params: Tree) -> Float[Array, " tasks"]:
        logits = merge(model.definition, params)(jnp.asarray(held_out.inputs), train=False)
        return (logits.argmax(-1) == held_out.answers).mean((0, 1))

    learned, held_out = sequences((far, total), vocabulary=setting.names, length=setting.length)
    config = TextEncoderConfig(blocks, setting.names, setting.length)
    model = trained(Build(partial(Tagger, config, 2)), learned, seeds, steps=steps, rate=RATE)
    of_far, of_sum = np.asarray(right(model.params)).T
    return Spread.of(of_far), Spread.of(of_sum), Spread.of(model.losses.mean(1))


STUDY = Study(
    name="feed-forward",
    claim=(
        "The feed-forward network works on each token alone; it is the minor part beside attention and a bottleneck "
        "for long-range dependencies, and GELU or SwiGLU make it better than ReLU."
    ),
    method=(
        "Parameters and operations are counted, and the output of a fresh network at each token is differentiated by "
        f"all tokens. Then small models of width {FULL.width} are trained: two layers with a feed-forward network of "
        "3 times the width (SwiGLU: 2 times, which makes as many weights), two without one, or five layers of "
        f"attention alone, which have as many weights again. Of {FULL.length} random tokens out of {FULL.names} in a "
        f"circle they must name, at each, the one half-way round and the sum of both modulo {FULL.names}; or they read "
        "handwritten digits of 8 x 8 pixels."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.3",
        "Shazeer 2020, GLU Variants Improve Transformer",
        "Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories",
    ),
    run=run,
)
