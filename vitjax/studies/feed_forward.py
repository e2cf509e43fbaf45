"""The feed-forward network: its share of parameters, operations and accuracy, its reach, and its activation."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.analysis.complexity import complexity
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.drawing import COLORS, curve
from vitjax.studies.lab.sequences import Tagger, Tokens, before, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import fresh, keys, trained

VIT_B = VisionTransformerConfig(TransformerConfig(768, 12, 12, 3072), (224, 224), (16, 16), num_classes=1000)
SIDES = (64, 128, 224, 384, 512, 768, 1024, 1536)  # of its images, in pixels
RELU, GELU, SWIGLU = "ReLU", "GELU", "SwiGLU"
NONE, INSTEAD, EVEN = "no feed-forward", "more attention instead", "ReLU, but even attention"
LEARNED, SMOOTH = 0.1, 10  # nats of loss, mean over so many steps: then the tokens are learned
PARTS = {
    "feed-forward": "feed_forward",
    "attention, projections": "attention_projections",
    "attention, scores": "attention_scores",
}


@dataclass(frozen=True)
class Setting:
    """What is trained, for how many steps; sequences have `length` tokens of `names`."""

    models: tuple[str, ...] = (RELU, GELU, SWIGLU, NONE, INSTEAD, EVEN)
    width: int = 64
    names: int = 12
    length: int = 16
    naming: int = 500
    reading: int = 600


FULL = Setting()
SETTINGS = {
    "reduced": Setting((RELU, NONE), 32, names=4, length=8, naming=250, reading=0),
    "full": FULL,
    "long": Setting(naming=1500, reading=3000),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Count, differentiate, and train with the network, without it, and with attention in its place."""
    setting = SETTINGS[size]
    far = setting.length // 2
    tasks = ("the token before", f"the token {far} before", "its sum with the own")
    named = {name: _naming(name, setting, seeds) for name in setting.models}
    accuracy = {name: dict(zip(tasks, right, strict=True)) for name, (right, _) in named.items()}
    steps = {name: taken for name, (_, taken) in named.items()}
    if setting.reading:
        accuracy = {name: {"digits": _reading(name, setting, seeds)} | accuracy[name] for name in accuracy}
    of_others, attention = _reach(setting.width, seeds)
    parameters, operations = _shares(VIT_B)
    rows: list[tuple[Cell, ...]] = [("ViT-B/16", parameters, operations, *(["-"] * len(accuracy[RELU])), "-")]
    rows += [
        (name, *_shares(_reader(name, setting)), *found.values(), steps[name])
        for name, found in accuracy.items()
    ]

    def lost(by: str, task: str) -> Spread:
        """Compared with ReLU, in percentage points."""
        pairs = zip(accuracy[RELU][task].values, accuracy[by][task].values, strict=True)
        return Spread.of(100 * (more - less) for more, less in pairs)

    def gained(by: str, task: str) -> Spread:
        return Spread.of(-points for points in lost(by, task).values)

    def sooner(by: str) -> Spread:
        """Steps, of those with ReLU."""
        pairs = zip(steps[by].values, steps[RELU].values, strict=True)
        return Spread.of(taken / usual for taken, usual in pairs)

    checks = [
        Check(
            "it works on each token alone: its output has no derivative by another token",
            of_others,
            "of that by its own token",
            at_least=0.0,
            at_most=0.0,
            essential=True,
        ),
        Check(
            "the test can fail: attention has such derivatives",
            attention,
            "of that by its own token",
            at_least=1e-3,
        ),
        Check(
            "it is the smaller part of a ViT-B/16 (parameters)",
            Spread((parameters,)),
            "% of all",
            at_most=50.0,
            essential=True,
        ),
        Check(
            "so too of the operations at 224 x 224 pixels", Spread((operations,)), "% of all", at_most=50.0
        ),
        Check(
            f"it is in the way of long distances: without it the token {far} before is named better",
            gained(NONE, tasks[1]),
            "percentage points",
            at_least=1.0,
            essential=True,
        ),
        Check(
            "little is lost without it: naming the sum of two tokens",
            lost(NONE, tasks[2]),
            "percentage points",
            at_most=5.0,
        ),
    ]
    if INSTEAD in accuracy:
        checks.append(
            Check(
                "layers of attention with as many parameters can take its place in that",
                lost(INSTEAD, tasks[2]),
                "percentage points lost",
                at_most=5.0,
            )
        )
    if setting.reading:
        checks += [
            Check("little is lost on digits", lost(NONE, "digits"), "percentage points", at_most=5.0),
            Check(
                "GELU reads them better than ReLU", gained(GELU, "digits"), "percentage points", at_least=1.0
            ),
            Check("SwiGLU reads them better", gained(SWIGLU, "digits"), "percentage points", at_least=1.0),
            Check("GELU learns the tokens sooner than ReLU", sooner(GELU), "of the steps", at_most=0.9),
            Check("SwiGLU learns them sooner", sooner(SWIGLU), "of the steps", at_most=0.9),
        ]

    def draw(figure: Figure) -> None:
        share, accuracies = figure.subplots(1, 2, width_ratios=(2, 3))
        tokens = [(side // 16) ** 2 for side in SIDES]
        counts = [complexity(VIT_B, image_size=(side, side)) for side in SIDES]
        for place, (label, part) in enumerate(PARTS.items()):
            shares = [Spread((100 * count.flops[part] / count.forward_flops,)) for count in counts]
            curve(share, tokens, shares, label, place)
        share.set(
            xlabel="patches of an image",
            ylabel="operations (% of all)",
            title="ViT-B/16",
            xscale="log",
            ylim=(0, 100),
        )
        step = 0.8 / len(accuracy)
        for place, (name, found) in enumerate(accuracy.items()):
            for group, spread in enumerate(found.values()):
                x = group + step * (place - (len(accuracy) - 1) / 2)
                accuracies.bar(
                    x, spread.mean, width=0.9 * step, color=COLORS[place], label=None if group else name
                )
                accuracies.vlines(x, spread.low, spread.high, color="#888888", lw=2)
        accuracies.set_xticks(
            range(len(accuracy[RELU])), [task.replace(" ", "\n", 2) for task in accuracy[RELU]]
        )
        accuracies.set(
            xlabel="what is to be named", ylabel="accuracy (fraction)", title="after training", ylim=(0, 1.45)
        )
        share.legend()
        accuracies.legend(ncols=2, loc="upper center")

    takeover = 2 * VIT_B.transformer.width
    total = tasks[2]
    sentences = [
        f"It is not the minor part: in a ViT-B/16 it has {parameters:.0f} % of the parameters and {operations:.0f} % "
        f"of the operations, and attention does more only from {takeover:,} tokens on.",
        "Nor is it a bottleneck over distance, for distance is none of its business: its output at a token has a "
        f"derivative of exactly {of_others.high:g} by any other. What carries over distance is attention, and the "
        f"token {far} before is named as well with the network ({accuracy[RELU][tasks[1]].mean:.2f}) as the one just "
        f"before ({accuracy[RELU][tasks[0]].mean:.2f}).",
        "What it does is compute with what attention has brought. To repeat a token needs none of it "
        f"({accuracy[NONE][tasks[0]].mean:.2f} without); to add two modulo {setting.names} does: "
        f"{accuracy[RELU][total].mean:.2f} with it, {accuracy[NONE][total].mean:.2f} without, where guessing has "
        f"{1 / setting.names:.2f}.",
    ]
    if INSTEAD in accuracy:
        sentences.append(
            f"Its parameters in more layers of attention do not replace it: {accuracy[INSTEAD][total].mean:.2f}."
        )
    if setting.reading:
        read = {name: found["digits"].mean for name, found in accuracy.items()}
        sentences.append(
            f"On small digits it is worth {lost(NONE, 'digits').mean:.1f} points of accuracy, attention that looks "
            f"anywhere in particular {lost(EVEN, 'digits').mean:.1f}. ReLU, GELU and SwiGLU at equal parameters read "
            f"them alike: {read[RELU]:.3f}, {read[GELU]:.3f}, {read[SWIGLU]:.3f}. They learn the tokens in "
            f"{steps[RELU].mean:.0f}, {steps[GELU].mean:.0f} and {steps[SWIGLU].mean:.0f} steps; what they gain in "
            "large models is not measured here."
        )
    return Result(
        Table(
            (
                "model",
                "feed-forward (% of parameters)",
                "(% of operations)",
                *(f"{task} (fraction right)" for task in accuracy[RELU]),
                f"steps until learned (of {setting.naming})",
            ),
            tuple(rows),
        ),
        tuple(checks),
        " ".join(sentences),
        draw,
        "Left: who does the operations of a ViT-B/16, by the number of patches. Right: accuracy of small models with "
        "and without feed-forward networks.",
    )


def _transformer(name: str, width: int) -> TransformerConfig:
    """Two layers; all but that without feed-forward networks have as many weights."""
    changes: dict[str, dict[str, Any]] = {
        RELU: {},
        GELU: {"activation": "gelu"},
        SWIGLU: {"activation": "swiglu", "feed_forward_width": 2 * width},  # three matrices for two
        NONE: {"feed_forward_width": 0},
        INSTEAD: {"feed_forward_width": 0, "depth": 5},  # of 4 D * D weights; they were two of (4 + 6) D * D
        EVEN: {"query_key_scale": 0.0},
    }
    return replace(TransformerConfig(width, 2, 4, 3 * width, activation="relu"), **changes[name])


def _reader(name: str, setting: Setting) -> VisionTransformerConfig:
    return VisionTransformerConfig(
        _transformer(name, setting.width), (8, 8), (2, 2), channels=1, num_classes=10
    )


def _shares(config: VisionTransformerConfig) -> tuple[float, float]:
    """Of the feed-forward networks in all parameters and operations, in percent."""
    count = complexity(config)
    return (
        100 * count.parameters["feed_forward"] / count.total_parameters,
        100 * count.flops["feed_forward"] / count.forward_flops,
    )


def _reach(width: int, seeds: tuple[int, ...]) -> tuple[Spread, Spread]:
    """Largest derivative by another token, of the largest by its own: of a feed-forward network and of attention."""
    tokens = 8

    @jax.jit
    @jax.vmap
    def measured(params: Tree, x: Float[Array, "N D"]) -> Float[Array, "2"]:
        block = merge(definition, params)
        sublayers = (
            lambda x: block.feed_forward(block.feed_forward_sublayer.enter(x, train=False), train=False),
            lambda x: block.attention(block.attention_sublayer.enter(x, train=False), train=False).values,
        )
        own = jnp.eye(tokens, dtype=bool)
        found = []
        for sublayer in sublayers:
            derivatives = jax.jacrev(lambda x, of=sublayer: of(x[None])[0])(x)  # [N, D, N, D]
            largest = jnp.abs(derivatives).max((1, 3))
            found.append(jnp.where(own, 0, largest).max() / jnp.where(own, largest, 0).max())
        return jnp.stack(found)

    config = _transformer(RELU, width)
    definition, params, _ = fresh(lambda rngs: EncoderBlock(config, rngs=rngs), seeds)
    found = measured(params, jax.vmap(lambda key: jax.random.normal(key, (tokens, width)))(keys(seeds)))
    return Spread.of(found[:, 0]), Spread.of(found[:, 1])


def _naming(name: str, setting: Setting, seeds: tuple[int, ...]) -> tuple[list[Spread], Spread]:
    """Share of right answers to each task, on new sequences, and steps that it took; one model learns all three."""
    far = before(setting.length // 2)

    def total(tokens: Tokens) -> Tokens:
        return (tokens + far(tokens)) % setting.names

    @jax.jit
    @jax.vmap
    def right(params: Tree) -> Float[Array, " tasks"]:
        logits = merge(model.definition, params)(jnp.asarray(held_out.inputs), train=False)
        return (logits.argmax(-1) == held_out.answers).mean((0, 1))

    config = TextEncoderConfig(_transformer(name, setting.width), setting.names, setting.length)
    learned, held_out = sequences((before(1), far, total), vocabulary=setting.names, length=setting.length)
    model = trained(
        lambda rngs: Tagger(config, 3, rngs=rngs), learned, seeds, steps=setting.naming, rate=2e-3
    )
    losses = np.asarray(model.losses)
    smooth = np.stack([np.convolve(each, np.full(SMOOTH, 1 / SMOOTH), "valid") for each in losses])
    steps = np.where((smooth < LEARNED).any(1), (smooth < LEARNED).argmax(1) + SMOOTH, setting.naming)
    return [Spread.of(task) for task in np.asarray(right(model.params)).T], Spread.of(steps)


def _reading(name: str, setting: Setting, seeds: tuple[int, ...]) -> Spread:
    """Accuracy of a small ViT on held-out handwritten digits."""
    config = _reader(name, setting)
    learned, held_out = digit_examples()
    return trained(config, learned, seeds, steps=setting.reading).accuracy(held_out)


STUDY = Study(
    name="feed-forward",
    claim=(
        "The feed-forward network works on each token alone; it is the minor part beside attention and a bottleneck "
        "for long-range dependencies, and GELU or SwiGLU make it better than ReLU."
    ),
    method=(
        "Parameters and operations are counted. The derivative of a fresh network's output at each token is taken by "
        f"all tokens. Then small models of width {FULL.width} are trained: two layers with a feed-forward network of "
        "3 times the width (SwiGLU: 2 times, which makes as many weights), without one, with five layers of attention "
        "alone, which have as many weights again, and with attention whose scores are all 0, so that it looks "
        f"everywhere alike. They read handwritten digits of 8 x 8 pixels, or {FULL.length} random tokens out of "
        f"{FULL.names} in a circle: at each they must name the one before it, the one half-way round, and the sum of "
        f"this and its own modulo {FULL.names}. They are learned when the mean loss of {SMOOTH} steps falls below "
        f"{LEARNED} nats."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.3",
        "Shazeer 2020, GLU Variants Improve Transformer",
        "Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories",
        "Dong et al. 2021, Attention is not all you need: pure attention loses rank doubly exponentially with depth",
    ),
    run=run,
)
