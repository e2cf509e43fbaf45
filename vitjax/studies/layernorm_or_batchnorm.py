"""LayerNorm against BatchNorm in a Transformer: batches, modes, padding, lengths; pre- against post-norm by depth."""

from collections.abc import Callable
from functools import partial
from operator import truediv
from typing import get_args

import numpy as np
from matplotlib.figure import Figure

from vitjax.nn.norms import NormKind
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Trained, trained
from vitjax.studies.layernorm_or_batchnorm_measures import (
    LENGTH,
    WIDTH,
    Position,
    Task,
    changed_answers,
    distances_of_statistics,
    gradients,
    images,
    influence_of_others,
    seen_of_the_future,
    text,
    transformer,
)

TEXT, IMAGES = "text", "images"
BATCHES: dict[Size, dict[str, tuple[int, ...]]] = {
    "reduced": {TEXT: (2,)},
    "full": {TEXT: (2, 8, 32), IMAGES: (2, 8, 32)},
    "long": {TEXT: (2, 8, 32, 128), IMAGES: (2, 8, 32, 128)},
}
EXAMPLES: dict[Size, dict[str, int]] = {  # seen in training
    "reduced": {TEXT: 200},
    "full": {TEXT: 9600, IMAGES: 6400},
    "long": {TEXT: 38400, IMAGES: 51200},
}
DEPTHS = {"reduced": (12,), "full": (4, 24), "long": (4, 12, 48)}
RATE = 8e-3  # in batches of 32
ONE_LENGTH, LIKE_LENGTH = "all of 12 words", "alike in length"
NORMS: dict[str, NormKind] = {"LayerNorm": "layer", "BatchNorm": "batch"}
LAYER, BATCH = NORMS
POSITIONS: tuple[Position, ...] = get_args(Position)
NOT_MEASURED = "-"

ByNorm = dict[str, Spread]


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Train both norms on sentences and images, in batches of several sizes; then look at gradients by depth."""
    tasks = {TEXT: text(), IMAGES: images()}
    models = {
        (task, batch): {
            name: _learned(tasks[task], norm, batch, EXAMPLES[size][task], seeds)
            for name, norm in NORMS.items()
        }
        for task, batches in BATCHES[size].items()
        for batch in batches
    }
    accuracy: dict[tuple[str, int], ByNorm] = {}
    changed: dict[tuple[str, int], ByNorm] = {}
    for (task, batch), found in models.items():
        learned, held_out = tasks[task].examples, tasks[task].held_out
        accuracy[task, batch] = {name: model.accuracy(held_out) for name, model in found.items()}
        changed[task, batch] = {name: changed_answers(model, learned, batch) for name, model in found.items()}
    others = {} if size == "reduced" else _of_other_lengths(EXAMPLES[size][TEXT], seeds)

    few, many = min(BATCHES[size][TEXT]), max(BATCHES[size][TEXT])
    sentences = tasks[TEXT].held_out.inputs
    influence = {name: influence_of_others(model, sentences) for name, model in models[TEXT, few].items()}
    future = {name: seen_of_the_future(norm, seeds) for name, norm in NORMS.items()}
    words = (sentences > 0).sum(axis=1) - 1
    lengths = {"any": words > 0, "short": words <= 4, "long": words >= LENGTH - 4}
    batches_of = np.stack([sentences[rows][:32] for rows in lengths.values()])
    off = dict(zip(lengths, distances_of_statistics(models[TEXT, many][BATCH], batches_of), strict=True))
    by_layer = gradients(tasks[TEXT], DEPTHS[size], seeds)
    deepest = max(DEPTHS[size])
    last = {key: Spread.of(norms[:, -1]) for key, norms in by_layer.items()}
    first = {key: Spread.of(norms[:, 0] / norms[:, -1]) for key, norms in by_layer.items()}

    def by_norm(what: str, found: ByNorm) -> tuple[Cell, ...]:
        return (what, found[LAYER], found[BATCH], NOT_MEASURED)

    def by_position(what: str, found: dict[tuple[Position, int], Spread], depth: int) -> tuple[Cell, ...]:
        return (what, found["pre", depth], NOT_MEASURED, found["post", depth])

    moved = {
        (what, train): {name: influence[name][what][train] for name in NORMS}
        for what in ("others", "padding")
        for train in (True, False)
    }
    rows = [
        *(by_norm(f"accuracy, {task}, batches of {n} (fraction)", f) for (task, n), f in accuracy.items()),
        *(by_norm(f"accuracy, text, batches of 8, {kind} (fraction)", f) for kind, f in others.items()),
        by_norm(f"answers unlike those in evaluation, text, batch of {few} (fraction)", changed[TEXT, few]),
        by_norm("answer moved by other sentences, in training (deviations)", moved["others", True]),
        by_norm("answer moved by more padding, in training (deviations)", moved["padding", True]),
        by_norm("logits moved by a later token, in training (fraction)", future),
        *(by_position(f"gradient of the last of {n} layers (loss per unit)", last, n) for n in DEPTHS[size]),
        by_position(f"gradient of the first of {deepest} layers (times the last)", first, deepest),
    ]
    by_others, by_padding, modes = moved["others", True], moved["padding", True], changed[TEXT, few]
    evaluated = _each(moved["others", False][BATCH], moved["padding", False][BATCH], max)
    checks = [
        Check(
            "with LayerNorm no answer depends on the other sentences of its batch",
            by_others[LAYER],
            "deviations",
            at_most=0.0,
            essential=True,
        ),
        Check(
            "nor on how much padding they bring (but for rounding)",
            by_padding[LAYER],
            "deviations",
            at_most=1e-4,
            essential=True,
        ),
        Check(
            "with BatchNorm it does in training: on the other sentences",
            by_others[BATCH],
            "deviations",
            at_least=0.01,
            essential=True,
        ),
        Check("and on the padding", by_padding[BATCH], "deviations", at_least=0.01, essential=True),
        Check("in evaluation BatchNorm's answers depend on neither", evaluated, "deviations", at_most=1e-4),
        Check(
            f"in batches of {few}, BatchNorm answers otherwise in training than in evaluation",
            modes[BATCH],
            "of the answers",
            at_least=0.05,
        ),
        Check("LayerNorm never does", modes[LAYER], "of the answers", at_most=0.0),
        Check(
            "BatchNorm lets a causal decoder see the future while it trains",
            future[BATCH],
            "of the logits before a changed token",
            at_least=0.5,
        ),
        Check(
            "batches of short sentences have statistics unlike BatchNorm's running ones",
            _each(off["short"], off["any"], truediv),
            "times the distance of any batch",
            at_least=2.0,
        ),
        Check(
            f"with post-norm the gradient of the last of {deepest} layers is larger than with pre-norm",
            _each(last["post", deepest], last["pre", deepest], truediv),
            "times",
            at_least=1.5,
        ),
        Check(
            "with post-norm the gradient vanishes towards the first layer",
            first["post", deepest],
            "times the last layer's",
            at_most=0.1,
        ),
    ]
    if size != "reduced":
        costs = {
            f"batches of {few} sentences cost BatchNorm accuracy": (accuracy[TEXT, few], 5.0),
            "so do batches of sentences alike in length": (others[LIKE_LENGTH], 2.0),
            "and batches of 32 images of one size": (accuracy[IMAGES, 32], 0.0),
        }
        checks += [
            Check(statement, _lead(found), "percentage points", at_least=least)
            for statement, (found, least) in costs.items()
        ]

    def draw(figure: Figure) -> None:
        accuracies, modes, depth = figure.subplots(1, 3)
        for axes, measured in ((accuracies, accuracy), (modes, changed)):
            place = 0
            for task, batches in BATCHES[size].items():
                for name in NORMS:
                    curve(axes, batches, [measured[task, n][name] for n in batches], f"{name}, {task}", place)
                    place += 1
            axes.set_xscale("log", base=2)
            axes.set_xticks(BATCHES[size][TEXT], [str(n) for n in BATCHES[size][TEXT]])
            axes.set_xlabel("batch size (examples)")
        accuracies.set(ylabel="accuracy (fraction)", title="equal numbers of examples")
        modes.set(ylabel="changed answers (fraction)", title="training mode against evaluation")
        accuracies.legend()
        for place, position in enumerate(POSITIONS):
            norms = [Spread.of(at) for at in by_layer[position, deepest].T]
            curve(depth, range(1, deepest + 1), norms, f"{position}-norm", place)
        depth.set(
            xlabel="layer",
            ylabel="gradient norm (loss per unit)",
            title="before training",
            ylim=(0, None),
        )
        depth.legend()

    return Result(
        Table(
            ("measured", "LayerNorm, pre-norm", "BatchNorm, pre-norm", "LayerNorm, post-norm"), tuple(rows)
        ),
        tuple(checks),
        _finding(accuracy, others, changed, off, last, first),
        draw,
        "Left: accuracy after equally many examples. Middle: answers of a model to the same batch that differ between "
        "its two modes. Right: norm of the gradient of each layer's parameters, before training.",
    )


def _learned(task: Task, norm: NormKind, batch: int, examples: int, seeds: tuple[int, ...]) -> Trained:
    """A model that has seen so many examples; the rate grows with the root of the batch, as suits Adam."""
    return trained(
        partial(task.build, transformer(norm)),
        task.examples,
        seeds,
        steps=examples // batch,
        batch=batch,
        rate=RATE * (batch / 32) ** 0.5,
        draw=task.draw,
    )


def _of_other_lengths(examples: int, seeds: tuple[int, ...]) -> dict[str, ByNorm]:
    """Accuracy where sentences, or those of a batch, are equally long."""
    tasks = {ONE_LENGTH: text(shortest=12, longest=12), LIKE_LENGTH: text(alike=True)}
    return {
        kind: {
            name: _learned(task, norm, 8, examples, seeds).accuracy(task.held_out)
            for name, norm in NORMS.items()
        }
        for kind, task in tasks.items()
    }


def _each(a: Spread, b: Spread, of: Callable[[float, float], float]) -> Spread:
    """A number of two, seed by seed."""
    return Spread.of(map(of, a.values, b.values))


def _lead(found: ByNorm) -> Spread:
    """How far LayerNorm's accuracy is above BatchNorm's, in percentage points."""
    return _each(found[LAYER], found[BATCH], lambda layer, batch: 100 * (layer - batch))


def _finding(
    accuracy: dict[tuple[str, int], ByNorm],
    others: dict[str, ByNorm],
    changed: dict[tuple[str, int], ByNorm],
    off: ByNorm,
    last: dict[tuple[Position, int], Spread],
    first: dict[tuple[Position, int], Spread],
) -> str:
    def both(found: ByNorm) -> str:
        return f"{found[LAYER].mean:.2f} against {found[BATCH].mean:.2f}"

    (_, few), *_ = accuracy
    sentences = [
        "LayerNorm makes each token's vector a matter of that token alone. BatchNorm, in training, mixes in the other "
        "sentences, their padding (vitjax's, like most, counts padded places too) and, in a decoder, the tokens to "
        "come, past the causal mask. In evaluation it does none of this, so the same model is two: in batches of "
        f"{few} sentences {changed[TEXT, few][BATCH].mean:.0%} of its answers change with the mode. The statistics of "
        f"short sentences lie {off['short'].mean / off['any'].mean:.0f} times as far from the running ones as those of "
        f"any, of long sentences {off['long'].mean / off['any'].mean:.0f} times."
    ]
    if others:
        sentences += [
            f"What that costs depends on the data (accuracy, LayerNorm against BatchNorm): {both(accuracy[TEXT, few])} "
            f"in batches of {few} sentences, {both(accuracy[TEXT, 32])} in batches of 32; in batches of 8, "
            f"{both(accuracy[TEXT, 8])} with lengths mixed, {both(others[LIKE_LENGTH])} with batches of like length, "
            f"which save padding, and {both(others[ONE_LENGTH])} where all sentences are equally long.",
            "BatchNorm is fine where shapes are fixed and batches large: for images in batches of 32 it learns faster "
            f"({both(accuracy[IMAGES, 32])}).",
        ]
    depths = sorted({depth for _, depth in last})
    pre, post = (
        " and ".join(f"{last[position, depth].mean:.1f}" for depth in depths) for position in POSITIONS
    )
    sentences.append(
        f"With {' and '.join(map(str, depths))} layers the gradient of the last one is {pre} with pre-norm, {post} "
        "with post-norm (why post-norm needs a warm-up, say Xiong et al.). That it vanishes towards the first layer is "
        f"not so here: the first layer's is {first['post', depths[-1]].mean:.1f} times the last one's."
    )
    return " ".join(sentences)


STUDY = Study(
    name="layernorm-or-batchnorm",
    claim=(
        "Transformers need LayerNorm: BatchNorm suffers from sentences of different length, padding and small batches, "
        "and behaves differently in training and evaluation. And the norm goes before the sublayer (pre-norm): behind "
        "it (post-norm) gradients are large near the output and vanish below."
    ),
    method=(
        f"Encoders of width {WIDTH} with two layers are trained with Adam on equally many examples in batches of "
        f"several sizes: on padded sentences of 2 to {LENGTH - 1} words that answer a question, and on handwritten "
        "digits of 8 x 8 pixels. The learning rate grows with the root of the batch size; the base, alike for both "
        "norms, is the best of those tried for either. Then single answers are compared while the rest of their batch "
        "is exchanged or padded, and models of growing depth by the gradient of each layer."
    ),
    sources=(
        "Ba et al. 2016, Layer Normalization",
        "Ioffe and Szegedy 2015, Batch Normalization",
        "Shen et al. 2020, PowerNorm: Rethinking Batch Normalization in Transformers",
        "Yao et al. 2021, Leveraging Batch Normalization for Vision Transformers",
        "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
    ),
    run=run,
)
