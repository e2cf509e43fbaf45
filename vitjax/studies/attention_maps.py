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
    OTHER,
    PATCHES,
    RANDOM,
    ROLLOUT,
    agreements,
)
from vitjax.studies.attention_maps_reader import CHANCE, HELD_OUT, OFFSETS, SIDE, looks, reader
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table


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

    def mean(values: np.ndarray) -> Spread:
        """Of each seed."""
        return Spread.of(values.reshape(len(seeds), -1).mean(axis=1))

    def correlation(name: str, fill: str) -> Spread:
        return Spread.of(maps[name].correlation[:, FILLS.index(fill)])

    correlations = (maps[name].correlation for name in (LAST, ROLLOUT, IMAGE, OTHER))  # each [seeds, fills]
    by_last, rollout, by_image, by_other = correlations
    checks = (
        Check(
            "a trained decoder looks at the digit it is writing",
            mean(late.inside / CHANCE),
            "times the attention that falls into its box by chance",
            at_least=1.5,
            essential=True,
        ),
        Check(
            "the box it looks at most is the one it needs most",
            mean(100 * (late.needed - late.looked_at)),
            "percentage points of digits fewer than by occlusion",
            at_most=6.0,
        ),
        Check(
            "so it is as soon as it reads better than chance",
            mean(100 * (early.needed - early.looked_at)),
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
            Spread.of(maps[ROLLOUT].left.mean(axis=1) / maps[RANDOM].left.mean(axis=1)),
            "of the probability that is left then",
            at_most=0.9,
        ),
        Check(
            "the last layer's attention alone says as much",
            mean(by_last - rollout),
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
            "rollout agrees with occlusion at least half as well as one way to occlude agrees with another",
            Spread.of(rollout.mean(axis=1) / by_other.mean(axis=1)),
            "times its rank correlation",
            at_least=0.5,
        ),
    )

    def row(name: str, *cells: Cell) -> tuple[Cell, ...]:
        return (name, *cells, *("-",) * (7 - len(cells)))

    rows = [
        row(f"reader after {steps} steps", *map(mean, (at.right, at.inside, at.looked_at, at.needed)))
        for steps, at in readers.items()
    ]
    rows += [
        row(f"- its {name} head", "-", Spread.of(choose(late.inside.mean(axis=3), axis=(1, 2))))
        for name, choose in (("best", np.max), ("worst", np.min))
    ]
    middle = (mean(each[..., 1]) for each in (late.inside, late.looked_at, late.needed))
    rows.append(row("- for the middle digit", "-", *middle))
    rows += [
        row(
            f"classifier, {name}",
            Spread.of(accuracy) if name == MAPS[0] else "-",
            *("-",) * 3,
            *(correlation(name, fill) for fill in FILLS),
            mean(maps[name].left),
        )
        for name in MAPS
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
            spreads = [mean(100 * getattr(at, name)) for at in readers.values()]
            curve(learning, list(readers), spreads, label, place)
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
            ylim=(0, 125),
        )
        deletion.legend(loc="upper right")

    def told(name: str) -> str:
        """Where a patch is replaced by the mean, and where it is made black."""
        return " and ".join(f"{correlation(name, fill).mean:.2f}" for fill in FILLS)

    def percent(values: np.ndarray) -> str:
        return f"{100 * values.mean():.0f} %"

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
        f"where {percent(np.array(CHANCE))} would be chance, and that box is the one looked at most for "
        f"{percent(late.looked_at)} of the digits and the one needed most for {percent(late.needed)}. But attention "
        f"comes late: after {soon} steps the decoder has {percent(early.right)} of the digits right, and blacking out "
        f"boxes shows that {percent(early.needed)} of them rest most on their own, while that box gets "
        f"{percent(early.inside)} of the attention and is the one looked at most for {percent(early.looked_at)}. It "
        "looks at all digits about alike, and knows which there are before it knows which stands where. For the "
        "classifier the rank correlation of rollout with occlusion, where a patch is replaced by the mean digit's "
        f"and where it is made black, is {told(ROLLOUT)}; of gradient-weighted rollout {told(GRADIENT)}, of the last "
        f"layer's attention {told(LAST)}. Not much more can be asked for: the two ways of occlusion agree with each "
        f"other at {correlation(OTHER, FILLS[0]).mean:.2f}, and which map is best depends on the way. But how far a "
        f"patch is from what replaces it, which takes no model at all, reaches {told(IMAGE)}: much of what rollout "
        "shows is in the image already.",
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
