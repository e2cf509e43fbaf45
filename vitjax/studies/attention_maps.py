"""Is attention an explanation: a decoder's against the digit it writes, a classifier's against occlusion."""

import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.analysis.attention_maps import attention_maps, cross_attention_maps
from vitjax.analysis.occlusion import occlusion
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.nn.blocks import TransformerConfig
from vitjax.studies.lab import strings
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import bars, panel
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table, spreads
from vitjax.studies.lab.training import Build, trained, unstacked

CHANCE = strings.SIDE / strings.WIDTH  # share of the image that a digit's box covers
HELD_OUT = 512  # strings to look at
LOOKS = RIGHT, INSIDE, LOOKED_AT, NEEDED = (
    "digits right",
    "attention in its own box",
    "own box looked at most",
    "own box needed most",
)
MAPS = LAST, ROLLOUT, GRADIENT, IMAGE, OTHER = (
    "last layer",
    "rollout",
    "gradient-weighted rollout",
    "image alone",
    "other occlusion",
)
COVERS = MEAN, BLACK = "the mean digit", "black"
Maps = Float[Array | np.ndarray, "B rows columns"]


class Scale(NamedTuple):
    """How large models are, how deep each is, and how long they are trained, in how many stages the reader."""

    width: int
    encoder: int
    decoder: int
    classifier: int
    steps: int
    stages: int

    def transformer(self, depth: int) -> TransformerConfig:
        return TransformerConfig(self.width, depth, 4, 2 * self.width)


SCALES: dict[Size, Scale] = {
    "reduced": Scale(32, 0, 1, 2, 300, 3),
    "full": Scale(64, 2, 2, 4, 600, 4),
    "long": Scale(64, 4, 4, 6, 2400, 8),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Readers trained for longer and longer, and one kind of classifier."""
    scale = SCALES[size]
    by_steps = _readers(scale, seeds)
    accuracy, maps = _classifiers(scale, seeds)
    soon, late = min(by_steps), by_steps[scale.steps]
    early = by_steps[soon]

    def lead(name: str) -> list[Spread]:
        """How much better rollout agrees with each occlusion than another map does."""
        return [maps[ROLLOUT, cover] - maps[name, cover] for cover in COVERS]

    checks = (
        Check(
            "a trained decoder looks at the digit it is writing",
            late[INSIDE] / CHANCE,
            "times the attention that falls into its box by chance",
            at_least=1.5,
            essential=True,
        ),
        Check(
            "the box it looks at most is the one it needs most",
            100 * (late[NEEDED] - late[LOOKED_AT]),
            "percentage points of digits fewer than by occlusion",
            at_most=6.0,
        ),
        Check(
            "so it is as soon as it reads better than chance",
            100 * (early[NEEDED] - early[LOOKED_AT]),
            f"percentage points fewer after {soon} steps",
            at_most=6.0,
        ),
        Check(
            "rollout points at patches whose loss hurts the classifier",
            Spread.least(*(maps[ROLLOUT, cover] for cover in COVERS)),
            "rank correlation with occlusion",
            at_least=0.15,
            essential=True,
        ),
        Check(
            "the last layer's attention alone says as much",
            Spread.most(*lead(LAST)),
            "rank correlation less than rollout's",
            at_most=0.0,
        ),
        Check(
            "rollout says more than the image alone: how far each patch is from what covers it",
            Spread.least(*lead(IMAGE)),
            "rank correlation more",
            at_least=0.1,
        ),
        Check(
            "rollout agrees with occlusion at least half as well as one way to occlude agrees with another",
            Spread.least(*(maps[ROLLOUT, cover] / maps[OTHER, cover] for cover in COVERS)),
            "times its rank correlation",
            at_least=0.5,
        ),
    )
    rows: list[tuple[Cell, ...]] = [
        (f"reader after {steps} steps", *(found[name] for name in LOOKS), "-", "-")
        for steps, found in by_steps.items()
    ]
    rows.append(("classifier", accuracy, *"-----"))
    rows += [(f"its map: {name}", *"----", *(maps[name, cover] for cover in COVERS)) for name in MAPS]

    def draw(figure: Figure) -> None:
        learning, agreement = figure.subplots(1, 2)
        panel(
            learning,
            list(by_steps),
            {name: [100 * found[name] for found in by_steps.values()] for name in LOOKS},
            xlabel="training steps (count)",
            ylabel="share of digits, or of attention (%)",
            title="the decoder, while it learns",
            xlim=(0, None),
            ylim=(0, 105),
            legend="lower right",
        )
        bars(
            agreement,
            [re.sub("([ -])", r"\1\n", name) for name in MAPS],
            {f"covered by {cover}": [maps[name, cover] for name in MAPS] for cover in COVERS},
            xlabel="map of the patches (kind)",
            ylabel="rank correlation with occlusion (1: equal)",
            title="the classifier",
            legend="upper left",
        )
        agreement.margins(y=0.35)

    def told(name: str) -> str:
        return " and ".join(f"{maps[name, cover].mean:.2f}" for cover in COVERS)

    def percent(share: Spread) -> str:
        return f"{100 * share.mean:.0f} %"

    return Result(
        Table(
            (
                "what",
                *(f"{name} (fraction)" for name in LOOKS),
                *(f"rank correlation with occlusion by {cover} (1: equal)" for cover in COVERS),
            ),
            tuple(rows),
        ),
        checks,
        f"A trained decoder puts {percent(late[INSIDE])} of its attention into the box of the digit it is writing, "
        f"where {100 * CHANCE:.0f} % would be chance, and that box is the one looked at most for "
        f"{percent(late[LOOKED_AT])} of the digits and the one needed most for {percent(late[NEEDED])}. After {soon} "
        f"steps {percent(early[RIGHT])} of the digits are right and {percent(early[NEEDED])} need their own "
        f"box most, while that is looked at most for {percent(early[LOOKED_AT])} and gets {percent(early[INSIDE])} of "
        f"the attention. For the classifier the rank correlation of rollout with occlusion, by {MEAN} and by {BLACK}, "
        f"is {told(ROLLOUT)}; of gradient-weighted rollout {told(GRADIENT)}, of the last layer's attention "
        f"{told(LAST)}. Against this stand {maps[OTHER, MEAN].mean:.2f} between the two ways to occlude, and "
        f"{told(IMAGE)} for a map that asks no model at all: how far a patch is from what covers it.",
        draw,
        "Left: how often the box of the digit being written is the one that gets the most attention and the one "
        f"without which its logit falls most (chance: {100 / strings.DIGITS:.0f} %), and its share of the attention "
        f"(chance: {100 * CHANCE:.0f} %). Right: whether a map orders the patches as covering them one at a time does. "
        '"Image alone" asks no model: it is how far a patch\'s pixels are from what covers it. "Other occlusion" is '
        "covering by the other of the two.",
    )


def _readers(scale: Scale, seeds: tuple[int, ...]) -> dict[int, dict[str, Spread]]:
    """What `_looks` finds in readers of strings, by the steps of training they have had."""
    config = strings.string_transformer(scale.transformer(scale.encoder), scale.transformer(scale.decoder))
    learnt, held_out = (
        strings.strings(digits, count, np.random.default_rng(count))
        for digits, count in zip(digit_examples(), (12_288, HELD_OUT), strict=True)
    )
    build = Build(partial(strings.StringReader, config))
    found = trained(build, learnt.examples, seeds, steps=scale.steps, rate=4e-3, stages=scale.stages)
    stages = zip(*map(unstacked, unstacked(found.params)), strict=True)  # [stages][seeds]
    return {
        stage * scale.steps // scale.stages: spreads(
            _looks(Model(config, params["model"], {}, None, None, GenerationConfig()), held_out)
            for params in of_seeds
        )
        for stage, of_seeds in enumerate(stages, start=1)
    }


def _looks(model: Model, held_out: strings.Strings) -> dict[str, float]:
    """Where a reader looks while it writes the right digits, and which box it cannot do without."""
    digits, own = held_out.digits, np.arange(strings.DIGITS)
    tokens = strings.prompted(digits)
    attention = cross_attention_maps(model, held_out.images, tokens).mean[:, :, 0]  # [N, T, P]
    covered = held_out.boxes.reshape(*attention.shape, strings.PATCH).mean(axis=-1)  # share of a patch
    inside = np.einsum("ntp,nbp->ntb", attention, covered)  # of box b, while digit t is written

    def logits(images: Float[np.ndarray, "N 8 W 1"]) -> Float[np.ndarray, "N T V"]:
        return np.asarray(model.logits(images, tokens[:, :-1]))

    whole = logits(held_out.images)
    blacked = np.where(held_out.boxes[..., None, :, None], strings.BLACK, held_out.images[:, None])
    falls = np.stack([whole - logits(blacked[:, box]) for box in own], axis=-1)  # [N, T, V, boxes]
    falls = np.take_along_axis(falls, digits[..., None, None], axis=2)[:, :, 0]
    return {
        RIGHT: (whole.argmax(axis=-1) == digits).mean(),
        INSIDE: inside[:, own, own].mean(),
        LOOKED_AT: (inside.argmax(axis=-1) == own).mean(),
        NEEDED: (falls.argmax(axis=-1) == own).mean(),
    }


def _classifiers(scale: Scale, seeds: tuple[int, ...]) -> tuple[Spread, dict[tuple[str, str], Spread]]:
    """Accuracy of classifiers of digits, and what `_agreements` finds in them."""
    config = digit_vit(scale.transformer(scale.classifier), class_token=True, pooling="cls")
    learnt, held_out = digit_examples()
    found = trained(config, learnt, seeds, steps=scale.steps)
    fills = {MEAN: learnt.inputs.mean(axis=0), BLACK: strings.BLACK}
    models = (Model(config, params, {}, None, None, GenerationConfig()) for params in unstacked(found.params))
    return found.accuracy(held_out), spreads(_agreements(model, held_out.inputs, fills) for model in models)


def _agreements(
    model: Model, images: Float[np.ndarray, "B 8 8 1"], fills: dict[str, Any]
) -> dict[tuple[str, str], float]:
    """Rank correlation with occlusion of each map of the patches, by what covers a patch: one of `fills`."""
    rollout = attention_maps(model, images)
    gradient = attention_maps(model, images, method="gradient_rollout")
    last = rollout.weights[:, -1].mean(axis=1)
    falls = {cover: occlusion(model, images, fill=fill) for cover, fill in fills.items()}
    found: dict[tuple[str, str], float] = {}
    for cover, other in zip(COVERS, reversed(COVERS), strict=True):
        changed = np.abs(images - fills[cover]).reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4))  # 4 x 4 patches
        maps = last, rollout.relevance, gradient.relevance, changed, falls[other]
        found |= {
            (name, cover): _rank_correlation(each, falls[cover])
            for name, each in zip(MAPS, maps, strict=True)
        }
    return found


def _rank_correlation(one: Maps, other: Maps) -> float:
    """Spearman's, the mean over images."""
    ranks = (np.asarray(rankdata(x.reshape(len(x), -1), axis=1)) for x in (one, other))
    first, second = ((each - each.mean(1, keepdims=True)) / each.std(1, keepdims=True) for each in ranks)
    return float((first * second).mean())


STUDY = Study(
    name="attention-maps",
    claim=(
        "Attention makes Transformers interpretable: the decoder looks at what it is writing about, and attention "
        "rollout shows what a classifier's decision rests on."
    ),
    method=(
        "Readers of three handwritten digits, which lie in random places of 8 x 32 pixels and are read in columns of 2 "
        f"pixels, are trained to write them one after another. On {HELD_OUT} held-out strings the attention inside the "
        "box of the digit being written, mean of layers and heads, is compared with the box's share of the image, and "
        "the box that gets most of it with the one without which the digit's logit falls most. A ViT with a class "
        "token reads single digits in 16 patches; its maps are compared with how much the logit of the class it names "
        "falls when each patch is covered."
    ),
    sources=(
        "Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers (rollout)",
        "Chefer et al. 2021, Generic Attention-model Explainability (gradient-weighted rollout)",
        "Jain & Wallace 2019, Attention is not Explanation",
        "Xu et al. 2015, Show, Attend and Tell (attention drawn over the image, word by word)",
    ),
    run=run,
)
