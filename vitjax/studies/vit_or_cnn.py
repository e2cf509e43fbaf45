"""ViT, hybrid and ResNet of equal size: accuracy by number of images, what a shift does, what pretraining changes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32
from matplotlib.figure import Figure

from vitjax.analysis.complexity import complexity
from vitjax.models.resnet import ResNetConfig
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.paper import PAPER, on_paper, printed_digits, real_digits, shifted
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table, spreads
from vitjax.studies.lab.training import Examples, Loop

STRIDE = 4  # pixels between tokens: a patch, a stem and a patch, two halvings
SHIFTS = range(STRIDE + 1)
FEW, ALL = 200, 1437  # real digits to learn from
JUDGES = 360  # of those to learn from; learning rates are chosen by them
LARGE, BORDER = 48, 16  # pixels a side; pixels from its border that the zeros around it reach in the ResNet
VIT, HYBRID, RESNET, FREE = "ViT", "hybrid", "ResNet", "ViT without positions"
RATE, FINE_RATE, ANYWHERE, INSIDE = OTHERS = (
    "learning rate, from scratch",
    "learning rate, after pretraining",
    "features off, moved by a stride (deviations)",
    "the same far from the border",
)
# Of an accuracy: steps of pretraining, number of real digits, shift; or of `OTHERS`:
Key = tuple[int, int, int] | str


def _vit(feed_forward_width: int, **options: Any) -> VisionTransformerConfig:
    transformer = TransformerConfig(32, depth=2, num_heads=4, feed_forward_width=feed_forward_width)
    common: dict[str, Any] = dict(image_size=(PAPER, PAPER), channels=1, num_classes=10)
    return VisionTransformerConfig(transformer, **{"patch_size": (STRIDE, STRIDE), **common, **options})


MODELS: dict[str, VisionTransformerConfig | ResNetConfig] = {
    VIT: _vit(75),
    HYBRID: _vit(44, patch_size=(2, 2), stem_widths=(16, 16), stem_strides=(1, 2)),
    RESNET: ResNetConfig((1, 1), (16, 32), stem="small", halve_first_stage=True, channels=1, num_classes=10),
    FREE: _vit(79, positions="none"),
}


class Plan(NamedTuple):
    """`models` learn from `counts` real digits for `steps`, from scratch and after `pretraining` steps.

    The learning rates of each are the best of `rates`. Printed digits are `lines` of ten.
    """

    models: tuple[str, ...]
    counts: tuple[int, ...]
    steps: int
    lines: int
    pretraining: int
    rates: tuple[float, ...]


PLANS: dict[Size, Plan] = {
    "reduced": Plan((VIT, RESNET, FREE), (FEW,), 120, 12, 30, (1.2e-2,)),
    "full": Plan(tuple(MODELS), (50, FEW, ALL), 300, 500, 2_500, (4e-3, 8e-3, 16e-3)),
    "long": Plan(tuple(MODELS), (50, 100, FEW, 500, ALL), 600, 1_000, 30_000, (4e-3, 8e-3, 16e-3)),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Train each model from scratch and after printed digits, on more and more real ones; then move these."""
    plan = PLANS[size]
    learned, held_out = real_digits()
    printed = printed_digits(plan.lines, np.random.default_rng(0))
    moved = [shifted(held_out, pixels) for pixels in SHIFTS]
    with ThreadPoolExecutor() as threads:  # a model on each core
        measured = threads.map(partial(_measure, plan, seeds, learned, printed, moved), plan.models)
        found = dict(zip(plan.models, measured, strict=True))
    vit, resnet, most, longest = found[VIT], found[RESNET], plan.counts[-1], plan.pretraining

    def gap(before: int, count: int) -> Spread:
        return 100 * (resnet[before, count, 0] - vit[before, count, 0])

    checks = (
        Check(
            f"with {FEW} images a ResNet is ahead of a ViT of equal size",
            gap(0, FEW),
            "percentage points",
            at_least=1.0,
            essential=True,
        ),
        Check(
            f"a ViT needs huge data: {most:,} images are of little use to it",
            vit[0, most, 0],
            "of the held-out digits read",
            at_most=0.8,
        ),
        Check(
            "a ResNet's features move with the image, by whole strides and away from the border",
            resnet[INSIDE],
            "deviations",
            at_most=1e-5,
            essential=True,
        ),
        Check("near the border too", resnet[ANYWHERE], "deviations", at_most=1e-5),
        Check(
            "so a ResNet is shift-invariant: it reads digits moved by two pixels (half a stride) as well",
            100 * (resnet[0, most, 0] - resnet[0, most, STRIDE // 2]),
            "percentage points lost",
            at_most=5.0,
        ),
        Check("a ViT's features do not move with the image", vit[ANYWHERE], "deviations", at_least=0.1),
        Check("not even without positions", found[FREE][ANYWHERE], "deviations", at_least=0.1),
        Check(
            f"{longest:,} steps of pretraining on printed digits close the gap at {FEW} images",
            gap(longest, FEW),
            "percentage points",
            at_most=1.0,
        ),
    )
    costs = [complexity(MODELS[name], image_size=(PAPER, PAPER)) for name in found]
    rows: list[tuple[Cell, ...]] = [
        ("parameters (number)", *(cost.total_parameters for cost in costs)),
        ("FLOPs of one image (millions)", *(cost.forward_flops / 1e6 for cost in costs)),
    ]
    for before, start in ((0, "from scratch"), (longest, f"pretrained {longest:,} steps")):
        named: dict[str, Key] = {f"{start}, {count:,} digits": (before, count, 0) for count in plan.counts}
        named |= {f"{start}, moved by {by} px": (before, most, by) for by in (1, STRIDE // 2, STRIDE)}
        rows += [
            (f"{name} (fraction read)", *(model[key] for model in found.values()))
            for name, key in named.items()
        ]
    rows += [(name, *(model[name] for model in found.values())) for name in OTHERS]

    def draw(figure: Figure) -> None:
        scratch, pretrained, moved = figure.subplots(1, 3)
        same: dict[str, Any] = dict(ylabel="held-out digits read (fraction)", legend=None)
        for axes, before, title in ((scratch, 0, "from scratch"), (pretrained, longest, "pretrained")):
            curves = {
                name: [model[before, count, 0] for count in plan.counts] for name, model in found.items()
            }
            panel(
                axes,
                plan.counts,
                curves,
                xlabel="real digits (number)",
                title=title,
                log="x",
                ylim=(0.4, 1.0),
                **same,
            )
        curves = {name: [model[0, most, by] for by in SHIFTS] for name, model in found.items()}
        title = f"shifted after {most:,} unshifted"
        panel(moved, SHIFTS, curves, xlabel="shift (pixels)", title=title, ylim=(0.0, 1.0), **same)
        figure.legend(*moved.get_legend_handles_labels(), loc="outside lower center", ncols=len(found))

    def read(name: str, count: int = most, *, before: int = 0, by: int = 0) -> str:
        return f"{100 * found[name][before, count, by].mean:.0f} %"

    taught = ", ".join(
        f"the {name} reads {read(name, FEW, before=longest)} (from scratch {read(name, FEW)})"
        for name in plan.models
    )
    return Result(
        Table(("what", *found), tuple(rows)),
        checks,
        f"At equal size the ResNet is ahead of the ViT by {gap(0, FEW).mean:.1f} percentage points with {FEW} real "
        f"digits and by {gap(0, most).mean:.1f} with {most:,}, from which the ViT learns to read {read(VIT)}. Away "
        "from the border the ResNet's features move with the image exactly, but by whole strides, and that is not "
        f"shift-invariance: moved by one pixel it reads {read(RESNET, by=1)}, by two {read(RESNET, by=2)}, by four, "
        f"its stride, {read(RESNET, by=4)}. A ViT without positions has the same property for whole patches, near the "
        f"border too ({read(FREE, by=4)} moved by four); learned positions take it away ({read(VIT, by=4)}). "
        f"After {longest:,} steps of pretraining on printed digits and with {FEW} real ones {taught}: the ResNet is "
        f"{gap(longest, FEW).mean:.1f} points ahead of the ViT. Printed digits lie off the middle: moved by two pixels "
        f"the pretrained ResNet reads {read(RESNET, before=longest, by=2)}, the ViT "
        f"{read(VIT, before=longest, by=2)}.",
        draw,
        "Accuracy on held-out handwritten digits by how many were learned from. Middle: before the real digits, "
        "printed ones were learned. Right: those trained from scratch, tested on moved digits; patches and strides "
        f"are {STRIDE} pixels.",
    )


def _measure(
    plan: Plan,
    seeds: tuple[int, ...],
    learned: Examples,
    printed: Examples,
    moved: Sequence[Examples],
    name: str,
) -> dict[Key, Spread]:
    """Accuracy of one model on held-out digits that are `moved` by 0, 1, ... pixels, and how its features move."""
    loop = Loop(MODELS[name])
    parts = slice(None, -JUDGES), slice(-JUDGES, None)
    fitted, judges = (Examples(learned.inputs[part], learned.answers[part]) for part in parts)

    def train(start: tuple[Tree, Tree], examples: Examples, rate: float, **options: Any) -> tuple[Tree, Tree]:
        return loop.trained(start, examples, rate=rate, **{"steps": plan.steps, **options})

    def best(start: tuple[Tree, Tree]) -> float:
        """Rate for few real digits after a start of the first seed."""

        def tried(rate: float) -> float:
            model = train(start, fitted, rate, seed=seeds[0], num_examples=FEW)
            return loop.accuracy(model, judges)

        return max(plan.rates, key=tried)

    rate = best(loop.fresh(seeds[0]))
    starts = []
    for seed in seeds:
        fresh = loop.fresh(seed)
        starts.append((train(fresh, printed, rate, seed=seed, steps=plan.pretraining), fresh))
    fine_rate = best(starts[0][0])

    def of_seed(place: int) -> dict[Key, float]:
        found: dict[Key, float] = {RATE: rate, FINE_RATE: fine_rate}
        for before, start in zip((plan.pretraining, 0), starts[place], strict=True):
            for count in plan.counts:
                now = fine_rate if before else rate
                model = train(start, learned, now, seed=seeds[place], num_examples=count)
                for by in SHIFTS if count == plan.counts[-1] else (0,):
                    found[before, count, by] = loop.accuracy(model, moved[by])
        return found | _moved(loop.definition, *model, moved[0].inputs[:32])

    return spreads(map(of_seed, range(len(seeds))))


@partial(jax.jit, static_argnums=0)
def _features(
    definition: nnx.GraphDef, params: Tree, stats: Tree, images: Float[Array, "B H W 1"]
) -> Float[Array, "B N D"]:
    return merge(definition, params, stats).features(images, train=False).tokens


def _moved(
    definition: nnx.GraphDef, params: Tree, stats: Tree, images: Float32[np.ndarray, "B H W 1"]
) -> dict[Key, float]:
    """How far features of images moved by a stride are from moved features, in their deviations.

    Inside are cells that lie so far inside larger paper that no convolution's zeros around it reach them.
    """
    large = on_paper(images[..., 0], LARGE)
    both = np.concatenate([large, np.roll(large, STRIDE, axis=1)])
    tokens = np.asarray(_features(definition, params, stats, both))
    cells = isqrt(tokens.shape[1])
    still, then = tokens.reshape(2, len(images), cells, cells, -1)
    apart = (then - np.roll(still, STRIDE * cells // LARGE, axis=1)) ** 2 / still.var(axis=(0, 1, 2)).mean()
    middle = slice(BORDER * cells // LARGE, -BORDER * cells // LARGE)
    return {
        ANYWHERE: float(np.sqrt(apart.mean())),
        INSIDE: float(np.sqrt(apart[:, middle, middle].mean())),
    }


STUDY = Study(
    name="vit-or-cnn",
    claim=(
        "A Vision Transformer has less inductive bias than a convolutional network, which is shift-invariant: it needs "
        "huge data, and pretraining closes the gap."
    ),
    method=(
        f"Models with equally many parameters and a stride of {STRIDE} pixels learn real handwritten digits in the "
        f"middle of {PAPER} x {PAPER} paper: equal steps of 32 images with Adam, without weight decay or augmentation, "
        "from scratch or after steps on generated images, printed digits in six fonts, distorted and off the middle. "
        "The hybrid is a ViT behind two convolutions. The learning rate of each model, from scratch and printed and "
        f"again after these, is the best of three at the first seed, with {FEW} digits and {JUDGES} others to judge. "
        "Each seed has digits, order and weights of its own. Models and images are tiny: what is shown is the "
        "direction of the effects, not their size at scale."
    ),
    sources=(
        "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, sections 3.1 and 4.3",
        "Azulay and Weiss 2019, Why do deep convolutional networks generalize so poorly to small image "
        "transformations?",
        "Zhang 2019, Making Convolutional Networks Shift-Invariant Again",
        "Xiao et al. 2021, Early Convolutions Help Transformers See Better",
    ),
    run=run,
)
