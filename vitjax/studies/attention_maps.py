"""Is attention an explanation: a decoder's against the digit it writes, a classifier's against occlusion."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vitjax.studies.attention_maps_classifier import (
    FILLS,
    GRADIENT,
    IMAGE,
    LAST,
    MAPS,
    PATCHES,
    RANDOM,
    ROLLOUT,
    agreements,
)
from vitjax.studies.attention_maps_reader import CHANCE, HELD_OUT, OFFSETS, SIDE, Looks, looks, reader
from vitjax.studies.drawing import curve
from vitjax.studies.study import Cell, Check, Result, Size, Spread, Study, Table


class Scale(NamedTuple):
    """How large each experiment is; `layers` are the encoder's, the decoder's and the classifier's."""

    width: int
    layers: tuple[int, int, int]
    steps: int
    stages: int
    classifier_steps: int
    images: int


SCALES: dict[Size, Scale] = {
    "reduced": Scale(32, (0, 1, 2), 400, 4, 250, 60),
    "full": Scale(64, (2, 2, 4), 600, 4, 400, 120),
    "long": Scale(64, (4, 4, 6), 2400, 8, 2400, 360),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Readers trained for longer and longer, and one kind of classifier."""
    scale = SCALES[size]
    encoder, decoder, classifier = scale.layers
    readers = looks(reader(scale.width, encoder, decoder), seeds, steps=scale.steps, stages=scale.stages)
    maps, accuracy = agreements(
        seeds, width=scale.width, depth=classifier, steps=scale.classifier_steps, images=scale.images
    )
    soon = scale.steps // scale.stages
    early, late = readers[soon], readers[scale.steps]

    def missed(found: Looks) -> Spread:
        return Spread.of(100 * (found.needed - found.looked_at).mean(axis=1))

    def correlation(name: str, fill: str) -> Spread:
        return Spread.of(maps[name].correlation[:, FILLS.index(fill)])

    def left(name: str) -> Spread:
        return Spread.of(maps[name].left.mean(axis=1))

    by_last, rollout, by_image = (maps[name].correlation for name in (LAST, ROLLOUT, IMAGE))  # [seeds, fills]
    sooner = Spread.of(maps[ROLLOUT].left.mean(axis=1) / maps[RANDOM].left.mean(axis=1))
    checks = (
        Check(
            "a trained decoder looks at the digit it is writing",
            Spread.of(late.inside.mean(axis=(1, 2, 3)) / CHANCE),
            "times the attention that falls into its box by chance",
            at_least=1.5,
            essential=True,
        ),
        Check(
            "the box it looks at most is the one it needs most",
            missed(late),
            "percentage points of digits fewer than by occlusion",
            at_most=6.0,
        ),
        Check(
            "so it is as soon as it reads better than chance",
            missed(early),
            f"percentage points fewer after {soon} steps",
            at_most=6.0,
        ),
        Check(
            "rollout points at patches whose loss hurts the classifier",
            Spread.of(rollout.min(axis=1)),
            "rank correlation with occlusion",
            at_least=0.15,
            essential=True,
        ),
        Check(
            "taken away in its order, patches are missed sooner than in a random one",
            sooner,
            "of the probability that is left then",
            at_most=0.9,
        ),
        Check(
            "the last layer's attention alone says as much",
            Spread.of((by_last - rollout).mean(axis=1)),
            "rank correlation more than rollout's",
            at_least=0.0,
        ),
        Check(
            "rollout says more than the image itself, without any model, of how much each patch is out of the "
            "ordinary",
            Spread.of((rollout - by_image).min(axis=1)),
            "rank correlation more",
            at_least=0.1,
        ),
        Check(
            "rollout ranks the patches as occlusion does",
            Spread.of(rollout.max(axis=1)),
            "rank correlation with occlusion",
            at_least=0.7,
        ),
    )

    none = ("-",) * 3
    rows: list[tuple[Cell, ...]] = [
        *(
            (
                f"reader after {steps} steps",
                Spread.of(found.right),
                Spread.of(found.inside.mean(axis=(1, 2, 3))),
                Spread.of(found.looked_at.mean(axis=1)),
                Spread.of(found.needed.mean(axis=1)),
                *none,
            )
            for steps, found in readers.items()
        ),
        *(
            (
                f"- its {name} head",
                "-",
                Spread.of(choose(late.inside.mean(axis=3), axis=(1, 2))),
                "-",
                "-",
                *none,
            )
            for name, choose in (("best", np.max), ("worst", np.min))
        ),
        (
            "- for the middle digit",
            "-",
            Spread.of(late.inside[..., 1].mean(axis=(1, 2))),
            Spread.of(late.looked_at[:, 1]),
            Spread.of(late.needed[:, 1]),
            *none,
        ),
        *(
            (
                f"classifier, {name}",
                Spread.of(accuracy) if name == MAPS[0] else "-",
                "-",
                "-",
                "-",
                *(correlation(name, fill) for fill in FILLS),
                left(name),
            )
            for name in MAPS
        ),
    ]

    def draw(figure: Figure) -> None:
        around, learning, deletion = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
        for place, steps in enumerate((0, soon, scale.steps)):
            shares = [Spread.of(100 * at) for at in readers[steps].around.T]
            curve(around, list(OFFSETS), shares, f"{steps} steps", place)
        around.axvspan(-0.5, SIDE - 0.5, color="#888888", alpha=0.15, lw=0)
        around.set(
            xlabel="from the digit's left edge (pixels)",
            ylabel="attention of a pixel column (%)",
            title="where the decoder looks",
        )
        around.legend(loc="upper left")
        values = {
            "own box needed most": "needed",
            "own box looked at most": "looked_at",
            "attention in own box": "inside",
            "right": "right",
        }
        for place, (label, name) in enumerate(values.items()):
            each = [getattr(found, name).reshape(len(seeds), -1) for found in readers.values()]
            curve(learning, list(readers), [Spread.of(100 * x.mean(axis=1)) for x in each], label, place)
        learning.set(
            xlabel="training steps (count)",
            ylabel="digits, or attention (%)",
            title="the decoder, while it learns",
            ylim=(0, 105),
        )
        learning.legend(loc="lower right")
        for place, name in enumerate((RANDOM, LAST, ROLLOUT, GRADIENT, IMAGE)):
            curve(
                deletion, range(PATCHES + 1), [Spread.of(100 * at) for at in maps[name].left.T], name, place
            )
        deletion.set(
            xlabel="patches replaced (count)",
            ylabel="probability of the class (%)",
            title="the classifier, by map",
        )
        deletion.legend()

    def told(spread: Spread) -> str:
        return f"{spread.mean:.2f} ({spread.low:.2f} to {spread.high:.2f})"

    def percent(values: np.ndarray) -> str:
        return f"{100 * values.mean():.0f} %"

    best = max((ROLLOUT, GRADIENT), key=lambda name: correlation(name, FILLS[1]).mean)
    return Result(
        Table(
            (
                "model, map",
                "right (fraction)",
                f"attention in its box (fraction; chance {CHANCE:g})",
                "box looked at most (fraction of digits)",
                "box needed most (fraction of digits)",
                *(f"rank correlation, occluded by {fill} (1 is equal)" for fill in FILLS),
                "probability left as patches go (fraction)",
            ),
            tuple(rows),
        ),
        checks,
        f"A trained decoder puts {percent(late.inside)} of its attention into the box of the digit it is writing, "
        f"where {100 * CHANCE:.0f} % would be chance, and that box is the one looked at most for "
        f"{percent(late.looked_at)} of the digits, about as often as it is the one needed most "
        f"({percent(late.needed)}). But attention comes late: after {soon} steps the decoder has "
        f"{percent(early.right)} of the digits right, and blacking out boxes shows that {percent(early.needed)} of "
        f"them rest most on their own, while its attention is spread as by chance ({percent(early.inside)}) and "
        f"points at the right box for {percent(early.looked_at)}: what it uses, it does not look at. "
        "In the classifier, rollout agrees with occlusion "
        f"at a rank correlation of {told(correlation(ROLLOUT, FILLS[0]))} where a patch is replaced by the mean "
        f"digit's and {told(correlation(ROLLOUT, FILLS[1]))} where it is made black; gradient-weighted rollout at "
        f"{told(correlation(GRADIENT, FILLS[0]))} and {told(correlation(GRADIENT, FILLS[1]))}, the last layer's "
        f"attention at {told(correlation(LAST, FILLS[0]))} and {told(correlation(LAST, FILLS[1]))}. That is far from "
        "chance and far from an explanation: how far each patch is from what replaces it, which takes no model at "
        f"all, reaches {told(correlation(IMAGE, FILLS[0]))} and {told(correlation(IMAGE, FILLS[1]))}. Which map is "
        f"best depends on what a missing patch is replaced by (by black: {best}).",
        draw,
        "Left: attention around the digit being written (grey: its box). Middle: how often the box of that digit is "
        "the one looked at most and the one it cannot do without. Right: the probability of the class as the "
        f"{PATCHES} patches are replaced by the mean digit's, those that a map says matter most first.",
    )


STUDY = Study(
    name="attention-maps",
    claim=(
        "Attention makes Transformers interpretable: the decoder looks at what it is writing about, and attention "
        "rollout shows what a classifier's decision rests on."
    ),
    method=(
        "Readers of three handwritten digits, which lie in random places of 8 x 32 pixels and are read in columns of 2 "
        f"pixels, are trained to write them one after another. On {HELD_OUT} held-out strings the attention inside "
        "the box of the digit being written is compared with the box's share of the image, and the box that gets "
        "most of it with the one without which the digit's logit falls most. A ViT with a class token reads single "
        f"digits in {PATCHES} patches; its maps are compared with how much the logit of the class it names falls when "
        "each patch is covered."
    ),
    sources=(
        "Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers (rollout)",
        "Chefer et al. 2021, Generic Attention-model Explainability (gradient-weighted rollout)",
        "Jain & Wallace 2019, Attention is not Explanation",
        "Xu et al. 2015, Show, Attend and Tell (attention drawn over the image, word by word)",
    ),
    run=run,
)
