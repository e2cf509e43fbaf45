"""ViT, hybrid and ResNet of equal size: accuracy by number of images, what a shift does, what pretraining changes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from vitjax.analysis.complexity import complexity
from vitjax.models.resnet import ResNetConfig
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Examples, Loop
from vitjax.studies.vit_or_cnn_images import PAPER, on_paper, printed_digits, real_digits, shifted

STRIDE = 4  # pixels between tokens, of all models but one: a patch, a stem and a patch, two halvings
SHIFTS = range(STRIDE + 1)
FEW, ALL = 200, 1437  # real digits to learn from
JUDGES = 437  # examples of those to learn from; learning rates are chosen by them
LARGE, BORDER = 48, 16  # pixels a side; pixels from its border that the zeros around it reach in the ResNets
VIT, HYBRID, RESNET = "ViT", "hybrid", "ResNet"
FREE, FINE = "ViT without positions", "ResNet of stride 2"  # for the shifts alone: trained from scratch only
LINEAR = "linear, on pixels"


def _vit(feed_forward_width: int, **options: Any) -> VisionTransformerConfig:
    transformer = TransformerConfig(32, depth=2, num_heads=4, feed_forward_width=feed_forward_width)
    common: dict[str, Any] = dict(image_size=(PAPER, PAPER), channels=1, num_classes=10)
    return VisionTransformerConfig(transformer, **{"patch_size": (STRIDE, STRIDE), **common, **options})


def _resnet(*, halve_first_stage: bool) -> ResNetConfig:
    return ResNetConfig(
        (1, 1), (16, 32), stem="small", halve_first_stage=halve_first_stage, channels=1, num_classes=10
    )


MODELS: dict[str, VisionTransformerConfig | ResNetConfig] = {
    VIT: _vit(75),
    HYBRID: _vit(44, patch_size=(2, 2), stem_widths=(16, 16), stem_strides=(1, 2)),
    RESNET: _resnet(halve_first_stage=True),
    FREE: _vit(79, positions="none"),
    FINE: _resnet(halve_first_stage=False),
}


class Plan(NamedTuple):
    """What is trained: `models` on `counts` real digits for `steps`, from scratch and after `pretraining` steps."""

    models: tuple[str, ...]
    counts: tuple[int, ...]
    steps: int
    printed: int
    pretraining: tuple[int, ...]
    rates: tuple[float, ...]

    def counts_after(self, pretraining: int) -> tuple[int, ...]:
        """All from scratch and after the longest pretraining, else one."""
        return self.counts if pretraining in (0, self.pretraining[-1]) else (FEW,)


PLANS: dict[Size, Plan] = {
    "reduced": Plan((VIT, RESNET, FREE), (FEW,), 120, 1_000, (30,), (1.2e-2,)),
    "full": Plan(tuple(MODELS), (50, FEW, ALL), 300, 40_000, (500, 2_500), (4e-3, 8e-3, 16e-3)),
    "long": Plan(
        tuple(MODELS), (50, 100, FEW, 500, ALL), 600, 80_000, (1_000, 4_000, 30_000), (4e-3, 8e-3, 16e-3)
    ),
}


class Found(NamedTuple):
    """Of one model: `accuracy` by steps of pretraining, number of real digits and shift; for the others `_moved`."""

    rates: dict[str, float]
    accuracy: dict[tuple[int, int, int], Spread]
    moved: Spread
    inside: Spread


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Train each model from scratch and after printed digits, on more and more real ones; then move these."""
    plan = PLANS[size]
    learned, held_out = real_digits()
    printed = printed_digits(plan.printed, plan.printed // 8, seed=0)
    held_out_by_shift = [shifted(held_out, pixels) for pixels in SHIFTS]
    measure = partial(_measure, plan, seeds, learned, printed, held_out_by_shift)
    with ThreadPoolExecutor() as threads:  # a model on each core, the dearest first
        running = {name: threads.submit(measure, name) for name in reversed(plan.models)}
        found = {name: running[name].result() for name in plan.models}
    linear = _linear(plan, seeds, learned, held_out_by_shift)
    most, longest = plan.counts[-1], plan.pretraining[-1]

    def gap(pretraining: int, count: int) -> Spread:
        return _points(
            found[RESNET].accuracy[pretraining, count, 0], found[VIT].accuracy[pretraining, count, 0]
        )

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
            found[VIT].accuracy[0, most, 0],
            "of the held-out digits read",
            at_most=0.8,
        ),
        Check(
            "a ResNet's features move with the image, by whole strides and away from the border",
            found[RESNET].inside,
            "deviations",
            at_most=1e-5,
            essential=True,
        ),
        Check("near the border too", found[RESNET].moved, "deviations", at_most=1e-5),
        Check(
            "so a ResNet is shift-invariant: it reads digits moved by two pixels (half a stride) as well",
            _points(*(found[RESNET].accuracy[0, most, by] for by in (0, STRIDE // 2))),
            "percentage points lost",
            at_most=5.0,
        ),
        Check("a ViT's features do not move with the image", found[VIT].moved, "deviations", at_least=0.1),
        Check("not even without positions", found[FREE].moved, "deviations", at_least=0.1),
        Check(
            f"{longest:,} steps of pretraining on printed digits close the gap at {FEW} images",
            gap(longest, FEW),
            "percentage points",
            at_most=1.0,
        ),
    )

    def draw(figure: Figure) -> None:
        scratch, pretrained, moved = figure.subplots(1, 3)
        steps = (0, *plan.pretraining)
        for place, (name, model) in enumerate(found.items()):
            if name not in (FREE, FINE):
                curve(scratch, plan.counts, [model.accuracy[0, n, 0] for n in plan.counts], name, place)
                few = [model.accuracy[before, FEW, 0] for before in steps]
                curve(pretrained, range(len(steps)), few, name, place)
            curve(moved, SHIFTS, [model.accuracy[0, most, by] for by in SHIFTS], name, place)
        curve(scratch, plan.counts, [linear[n, 0] for n in plan.counts], LINEAR, 5)
        scratch.set(
            xlabel="real digits (number)", title="trained from scratch", xscale="log", ylim=(0.4, 1.0)
        )
        scratch.set_xticks(plan.counts, [f"{count:,}" for count in plan.counts])
        scratch.minorticks_off()
        pretrained.set(xlabel="pretraining before it (steps)", title=f"with {FEW} real digits")
        pretrained.set_xticks(range(len(steps)), [f"{before:,}" for before in steps])
        moved.set(xlabel="shift (pixels)", title=f"shifted after {most:,} unshifted", ylim=(0.0, 1.0))
        for axes in (scratch, pretrained, moved):
            axes.set_ylabel("held-out digits read (fraction)")
        lines = {line.get_label(): line for axes in (moved, scratch) for line in axes.lines}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines))

    return Result(
        Table(("what", *plan.models, LINEAR), tuple(_rows(plan, found, linear))),
        checks,
        _finding(plan, found, linear, gap),
        draw,
        "Accuracy on held-out handwritten digits. Middle: before the real digits, printed ones were learned. Right: "
        "those trained from scratch, tested on moved digits; strides are 4 pixels where no other is named.",
    )


def _measure(
    plan: Plan,
    seeds: tuple[int, ...],
    learned: Examples,
    printed: Examples,
    held_out_by_shift: Sequence[Examples],
    name: str,
) -> Found:
    config = MODELS[name]
    loop = Loop(config)
    rates: dict[str, float] = {}

    def train(kind: str, start: tuple[Tree, Tree], examples: Examples, **options: Any) -> tuple[Tree, Tree]:
        """From a start, at the rate of the plan that is best for this kind of training, tried out the first time."""
        if kind not in rates and len(plan.rates) == 1:
            rates[kind] = plan.rates[0]
        elif kind not in rates:
            fitted, judges = _parted(examples)
            tried = {rate: loop.trained(start, fitted, rate=rate, **options) for rate in plan.rates}
            rates[kind] = max(tried, key=lambda rate: loop.accuracy(tried[rate], judges))
        return loop.trained(start, examples, rate=rates[kind], **options)

    accuracy: dict[tuple[int, int, int], list[float]] = {}
    moved = []
    pretrainings = () if name in (FREE, FINE) else plan.pretraining
    for seed in seeds:
        fresh = loop.fresh(seed)
        for pretraining in (0, *pretrainings):
            start = fresh
            if pretraining:
                start = train("printed", fresh, printed, seed=seed, steps=pretraining)
            counts = plan.counts_after(pretraining)
            for count in sorted(counts, key=lambda count: count != FEW):  # by which rates are chosen
                kind = "fine-tuning" if pretraining else "scratch"
                model = train(kind, start, learned, seed=seed, steps=plan.steps, num_examples=count)
                for by in SHIFTS if count == plan.counts[-1] else (0,):
                    right = loop.accuracy(model, held_out_by_shift[by])
                    accuracy.setdefault((pretraining, count, by), []).append(right)
            if not pretraining:
                moved.append(_moved(loop.definition, *model, held_out_by_shift[0].inputs[:32]))
    spreads = {key: Spread.of(values) for key, values in accuracy.items()}
    return Found(rates, spreads, *(Spread.of(values) for values in zip(*moved, strict=True)))


def _parted(examples: Examples) -> tuple[Examples, Examples]:
    """Most of the examples, and the others, which judge learning rates."""
    parts = slice(None, -JUDGES), slice(-JUDGES, None)
    learned, judges = (Examples(examples.inputs[part], examples.answers[part]) for part in parts)
    return learned, judges


@partial(jax.jit, static_argnums=0)
def _features(
    definition: nnx.GraphDef, params: Tree, stats: Tree, images: Float[Array, "B H W 1"]
) -> Float[Array, "B N D"]:
    return merge(definition, params, stats).features(images, train=False).tokens


def _moved(
    definition: nnx.GraphDef, params: Tree, stats: Tree, images: Float32[np.ndarray, "B H W 1"]
) -> tuple[float, float]:
    """How far features of images moved by a stride are from moved features, in their deviations.

    The second is of cells that lie so far inside larger paper that no convolution's zeros around it reach them.
    """
    large = on_paper(images[..., 0], LARGE)
    both = np.concatenate([large, np.roll(large, STRIDE, axis=1)])
    tokens = np.asarray(_features(definition, params, stats, both))
    cells = isqrt(tokens.shape[1])
    still, then = tokens.reshape(2, len(images), cells, cells, -1)
    apart = (then - np.roll(still, STRIDE * cells // LARGE, axis=1)) ** 2
    middle = slice(BORDER * cells // LARGE, -BORDER * cells // LARGE)
    inside = apart[:, middle, middle]
    variance = still.var(axis=(0, 1, 2)).mean()
    return float(np.sqrt(apart.mean() / variance)), float(np.sqrt(inside.mean() / variance))


def _points(more: Spread, less: Spread) -> Spread:
    """Difference of two accuracies in percentage points."""
    return Spread.of(100 * (a - b) for a, b in zip(more.values, less.values, strict=True))


def _linear(
    plan: Plan, seeds: tuple[int, ...], learned: Examples, held_out_by_shift: Sequence[Examples]
) -> dict[tuple[int, int], Spread]:
    """Accuracy of logistic regression by number of real digits and shift."""
    accuracy: dict[tuple[int, int], list[float]] = {}
    for seed in seeds:
        for count in plan.counts:
            chosen = np.random.default_rng(seed).permutation(len(learned.answers))[:count]
            model = LogisticRegression(max_iter=300).fit(_flat(learned)[chosen], learned.answers[chosen])
            for by in SHIFTS if count == plan.counts[-1] else (0,):
                right = model.score(_flat(held_out_by_shift[by]), held_out_by_shift[by].answers)
                accuracy.setdefault((count, by), []).append(right)
    return {key: Spread.of(values) for key, values in accuracy.items()}


def _flat(examples: Examples) -> Float32[np.ndarray, "N pixels"]:
    return examples.inputs.reshape(len(examples.inputs), -1)


def _rows(
    plan: Plan, found: dict[str, Found], linear: dict[tuple[int, int], Spread]
) -> Iterator[tuple[Cell, ...]]:
    costs = [complexity(MODELS[name], image_size=(PAPER, PAPER)) for name in found]
    pixels = PAPER**2 * 10
    yield "parameters (number)", *(cost.total_parameters for cost in costs), pixels + 10
    yield "FLOPs of one image (millions)", *(cost.forward_flops / 1e6 for cost in costs), 2 * pixels / 1e6
    yield "learning rates, scratch and fine-tuning", *(_rates(model) for model in found.values()), "-"
    for before in (0, *plan.pretraining):
        start = f"pretrained {before:,} steps" if before else "from scratch"
        for count in plan.counts_after(before):
            accuracies = (model.accuracy.get((before, count, 0), "-") for model in found.values())
            yield (
                f"{start}, {count:,} digits (fraction read)",
                *accuracies,
                "-" if before else linear[count, 0],
            )
    last, most = plan.pretraining[-1], plan.counts[-1]
    for by in (1, STRIDE // 2, STRIDE):
        accuracies = (model.accuracy[0, most, by] for model in found.values())
        yield f"from scratch, moved by {by} px (fraction)", *accuracies, linear[most, by]
    moved = (model.accuracy.get((last, most, STRIDE // 2), "-") for model in found.values())
    yield f"pretrained {last:,} steps, moved by {STRIDE // 2} px (fraction)", *moved, "-"
    yield "features off, moved by a stride (deviations)", *(model.moved for model in found.values()), "-"
    yield "the same far from the border", *(model.inside for model in found.values()), "-"


def _rates(model: Found) -> str:
    return ", ".join(f"{model.rates[kind]:g}" for kind in ("scratch", "fine-tuning") if kind in model.rates)


def _finding(
    plan: Plan,
    found: dict[str, Found],
    linear: dict[tuple[int, int], Spread],
    gap: Callable[[int, int], Spread],
) -> str:
    few, most, last = plan.counts[0], plan.counts[-1], plan.pretraining[-1]

    def read(name: str, count: int = most, *, before: int = 0, by: int = 0) -> str:
        return f"{100 * found[name].accuracy[before, count, by].mean:.0f}%"

    finer = f" (at a stride of two: {read(FINE, by=1)} and {read(FINE, by=2)})" if FINE in found else ""
    learners = [name for name in (VIT, HYBRID, RESNET) if name in found]
    taught = [
        f"the {name} reads {read(name, FEW, before=last)} (from scratch: {read(name, FEW)})"
        for name in learners
    ]

    return (
        f"At equal size the ResNet is ahead of the ViT by {gap(0, FEW).mean:.1f} percentage points with {FEW} real "
        f"digits and by {gap(0, most).mean:.1f} with {most:,}, which are enough for the ViT to read {read(VIT)}: huge "
        f"data it does not need here. With {few} digits a linear classifier on the pixels reads "
        f"{100 * linear[few, 0].mean:.0f}%, the ResNet {read(RESNET, few)}, so knowing about images is not all. The "
        f"ResNet is not shift-invariant: away from the border its features move with the image exactly, but only by "
        f"whole strides; moved by one pixel it reads {read(RESNET, by=1)}, by two {read(RESNET, by=2)}{finer}, by "
        f"four, its stride, {read(RESNET, by=4)}. A ViT without positions has the same property for whole patches, "
        f"near the border too ({read(FREE, by=4)} moved by four); learned positions take it away "
        f"({read(VIT, by=4)}). After {last:,} steps of pretraining on printed digits and with {FEW} real ones "
        f"{', '.join(taught)}: the ResNet is {gap(last, FEW).mean:.1f} points ahead of the ViT. Off the middle as they "
        f"are, printed digits also teach what a shift is: moved by two pixels the pretrained ResNet reads "
        f"{read(RESNET, before=last, by=2)}, the ViT {read(VIT, before=last, by=2)}."
    )


STUDY = Study(
    name="vit-or-cnn",
    claim=(
        "A Vision Transformer has less inductive bias than a convolutional network, which is shift-invariant: it needs "
        "huge data, and pretraining closes the gap."
    ),
    method=(
        "Models with equally many parameters and a stride of 4 pixels (one ResNet: 2) learn real handwritten digits "
        "in the middle of 16 x 16 paper: equal steps of 32 images with Adam, without weight decay or augmentation, "
        "from scratch or after steps on generated images, printed digits in six fonts, distorted and off the middle. "
        "The hybrid is a ViT behind two convolutions. For each model and kind of training the learning rate is the "
        f"best of three at the first seed, on {JUDGES} images kept from it, with {FEW} real digits or with the "
        "shortest pretraining. Each seed has digits, order and weights of its own. Models and images are tiny: what "
        "is shown is the direction of the effects, not their size at scale."
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
