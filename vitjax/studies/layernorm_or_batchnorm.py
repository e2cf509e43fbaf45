"""LayerNorm against BatchNorm in a Transformer: lengths, padding, small batches, modes; pre- against post-norm."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.nnx import GraphDef
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.nn.norms import NormKind
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.sentences import LONGEST, alike_in_length, sentence_reader, sentences
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, Config, Draw, Examples, Trained, fresh, trained

MIXED, ALIKE, EQUAL, IMAGES = "lengths mixed", "alike in a batch", f"all of {LONGEST} words", "images"
SEEN: dict[Size, dict[str, int]] = {  # examples that a model learns from
    "reduced": {MIXED: 200},
    "full": {MIXED: 9600, ALIKE: 9600, EQUAL: 9600, IMAGES: 12800},
    "long": {MIXED: 51200, ALIKE: 51200, EQUAL: 51200, IMAGES: 102400},
}
BATCHES: dict[Size, tuple[int, ...]] = {"reduced": (2,), "full": (2, 8, 32), "long": (2, 8, 32, 128)}
DEPTH = {"reduced": 12, "full": 24, "long": 48}  # layers whose gradients are compared
RATE = 8e-3  # in batches of 32
NORMS: tuple[NormKind, NormKind] = ("layer", "batch")
BLOCKS = TransformerConfig(width=32, depth=2, num_heads=4, feed_forward_width=64)


@dataclass(frozen=True)
class Task:
    """Examples to learn from and held-out ones, the model for them, and how its batches are put together."""

    examples: Examples
    held_out: Examples
    model: Callable[[TransformerConfig], Config]
    draw: Draw


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Train both norms on each task, in batches of each size; then exchange, pad and look at gradients by layer."""
    tasks, kinds, batches, depth = _tasks(), SEEN[size], BATCHES[size], DEPTH[size]
    models = {
        (kind, n): [_learned(tasks[kind], norm, n, seen, seeds) for norm in NORMS]
        for kind, seen in kinds.items()
        for n in batches
    }
    accuracy = {
        (kind, n): [model.accuracy(tasks[kind].held_out) for model in both]
        for (kind, n), both in models.items()
    }
    changed = {(kind, n): _changed_answers(batch, tasks[kind], n) for (kind, n), (_, batch) in models.items()}
    lead = {key: 100 * (layer - batch) for key, (layer, batch) in accuracy.items()}
    layer, batch = models[MIXED, 2]
    unmoved, unmoved_by_padding = _moved(layer, tasks[MIXED].held_out, train=True)
    moved, moved_by_padding = _moved(batch, tasks[MIXED].held_out, train=True)
    evaluated = Spread.most(*_moved(batch, tasks[MIXED].held_out, train=False))
    future = _seen_of_the_future(seeds)
    pre = _gradients(tasks[MIXED], replace(BLOCKS, depth=depth, norm_position="pre"), seeds)
    post = _gradients(tasks[MIXED], replace(BLOCKS, depth=depth, norm_position="post"), seeds)
    first = post[0] / post[-1]

    far, points = "deviations", "percentage points"
    modes = "batches of 2 sentences get other answers in training than in evaluation"
    late = "BatchNorm lets a causal decoder see the future while it trains"
    last = f"with post-norm the gradient of the last of {depth} layers is larger than with pre-norm"
    checks = [
        Check("LayerNorm: the rest of the batch moves no answer", unmoved, far, at_most=0.0, essential=True),
        Check("nor does padding (but for rounding)", unmoved_by_padding, far, at_most=1e-4, essential=True),
        Check(
            "BatchNorm, in training: the rest of the batch moves answers",
            moved,
            far,
            at_least=0.01,
            essential=True,
        ),
        Check("so does padding", moved_by_padding, far, at_least=0.01, essential=True),
        Check("in evaluation neither does", evaluated, far, at_most=1e-4),
        Check(modes, changed[MIXED, 2], "of the answers", at_least=0.05),
        Check(late, future, "of the logits before a changed token", at_least=0.5),
        Check(last, post[-1] / pre[-1], "times", at_least=1.5),
        Check("and vanishes towards the first layer", first, "times the last layer's", at_most=0.1),
    ]
    if size != "reduced":
        checks += [
            Check("batches of 2 sentences cost BatchNorm accuracy", lead[MIXED, 2], points, at_least=5.0),
            Check("so do batches of 8 alike in length", lead[ALIKE, 8], points, at_least=2.0),
            Check("and batches of 32 images of one size", lead[IMAGES, 32], points, at_least=0.0),
        ]

    def draw(figure: Figure) -> None:
        accuracies, answers, gradients = figure.subplots(1, 3)
        for axes, found, ylabel, title, legend in (
            (accuracies, lead, "LayerNorm's lead (percentage points)", "accuracy", "best"),
            (answers, changed, "changed answers (fraction)", "BatchNorm, two modes", None),
        ):
            curves = {kind: [found[kind, n] for n in batches] for kind in kinds}
            of_batches: dict[str, Any] = dict(xlabel="batch size (examples)", log="x", base=2, legend=legend)
            panel(axes, batches, curves, ylabel=ylabel, title=title, **of_batches)
        panel(
            gradients,
            range(1, depth + 1),
            {"pre-norm": pre, "post-norm": post},
            names=[*kinds, "pre-norm", "post-norm"],
            xlabel="layer (number)",
            ylabel="gradient norm (loss per unit)",
            title="LayerNorm, two places",
            ylim=(0, None),
        )

    columns = (
        "sentences or images",
        "batch size (examples)",
        "accuracy, LayerNorm (fraction)",
        "accuracy, BatchNorm (fraction)",
        "answers of BatchNorm that change with the mode (fraction)",
    )
    return Result(
        Table(columns, tuple((*key, *both, changed[key]) for key, both in accuracy.items())),
        tuple(checks),
        "LayerNorm makes each token's vector a matter of that token alone. BatchNorm, in training, mixes in the rest "
        "of the batch, its padding (vitjax's, like most, counts padded places too) and, in a decoder, the tokens to "
        "come, past the causal mask. In evaluation it does none of this, so the same model is two: in batches of 2 "
        f"sentences {changed[MIXED, 2].mean:.0%} of its answers change with the mode. "
        + ("" if size == "reduced" else _costs(lead))
        + f"Before training, the gradient of the last of {depth} layers is {pre[-1].mean:.1f} with pre-norm and "
        f"{post[-1].mean:.1f} with post-norm (why post-norm needs a warm-up, say Xiong et al.). That it vanishes "
        f"towards the first layer is not so here: the first layer's is {first.mean:.1f} times the last one's.",
        draw,
        "Left: how far LayerNorm's accuracy is above BatchNorm's after equally many examples: sentences, mixed in "
        "length, of like length in each batch or all equally long, and images of digits. Middle: answers of a model "
        "with BatchNorm to the same batch that differ between training and evaluation mode. Right: norm of the "
        "gradient of each layer's parameters before training.",
    )


def _costs(lead: dict[tuple[str, int], Spread]) -> str:
    def at(kind: str) -> str:
        return f"{lead[kind, 2].mean:.1f} and {lead[kind, 32].mean:.1f}"

    return (
        "What that costs depends on the data. After equally many examples, in batches of 2 and of 32, LayerNorm leads "
        f"by {at(MIXED)} percentage points where sentences of all lengths share a batch; by {at(ALIKE)} where those "
        f"alike in length do, which saves padding; by {at(EQUAL)} where all are equally long; by {at(IMAGES)} with "
        "images of one size. What BatchNorm needs is batches that resemble each other. "
    )


def _tasks() -> dict[str, Task]:
    def at_random(examples: Examples) -> Draw:
        return lambda rng, shape: rng.integers(0, len(examples.answers), shape)

    mixed, equal, images = sentences(2), sentences(LONGEST), digit_examples()
    return {
        MIXED: Task(*mixed, sentence_reader, at_random(mixed[0])),
        ALIKE: Task(*mixed, sentence_reader, alike_in_length(mixed[0])),
        EQUAL: Task(*equal, sentence_reader, at_random(equal[0])),
        IMAGES: Task(*images, digit_vit, at_random(images[0])),
    }


def _learned(task: Task, norm: NormKind, batch: int, seen: int, seeds: tuple[int, ...]) -> Trained:
    """A model that has seen so many examples; the rate grows with the root of the batch, as suits Adam."""
    config, rate = task.model(replace(BLOCKS, norm=norm)), RATE * (batch / 32) ** 0.5
    return trained(config, task.examples, seeds, steps=seen // batch, batch=batch, rate=rate, draw=task.draw)


def _logits(model: Trained, batches: np.ndarray, train: bool) -> Float[np.ndarray, "seeds N B V"]:
    """What the model of each seed says to each of the batches [N, B, ...]."""
    return np.asarray(_says(model.definition, model.params, model.stats, batches, train))


@partial(jax.jit, static_argnames=("definition", "train"))
def _says(definition: GraphDef, params: Tree, stats: Tree, batches: Array, train: bool) -> Array:
    def says(params: Tree, stats: Tree) -> Array:
        return jax.lax.map(lambda inputs: merge(definition, params, stats)(inputs, train=train), batches)

    return jax.vmap(says)(params, stats)


def _changed_answers(model: Trained, task: Task, batch: int) -> Spread:
    """Share of 512 answers to the same batches that differ between train mode and evaluation mode."""
    inputs = task.examples.inputs[task.draw(np.random.default_rng(0), (512 // batch, batch))]
    training, evaluation = (_logits(model, inputs, train).argmax(-1) for train in (True, False))
    return Spread.of((training != evaluation).mean((1, 2)))


def _moved(model: Trained, held_out: Examples, *, train: bool) -> tuple[Spread, Spread]:
    """How far an answer moves if the rest of its batch is exchanged, and if all of the batch get more padding.

    That is the largest difference of a logit, in deviations of the logits.
    """
    half = held_out.inputs.shape[1] // 2
    short = held_out.inputs[(held_out.inputs[:, half:] == 0).all(axis=1)]
    batch, exchanged = short[:8], np.concatenate([short[:1], short[8:15]])
    plain, other, padded = (
        _logits(model, inputs[None], train)[:, 0, 0]
        for inputs in (batch[:, :half], exchanged[:, :half], batch)
    )
    by_others, by_padding = (Spread.of(np.abs(x - plain).max(-1) / plain.std(-1)) for x in (other, padded))
    return by_others, by_padding


def _seen_of_the_future(seeds: tuple[int, ...], length: int = 8) -> Spread:
    """Share of the logits of a causal decoder with BatchNorm that the last token alters before it, in train mode."""
    decoder = DecoderConfig(replace(BLOCKS, depth=1, norm="batch"), 16, length)
    config = Build(partial(TransformerDecoder, decoder, context_width=BLOCKS.width))
    definition, params, stats = fresh(config, seeds)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def logits(params: Tree, stats: Tree, tokens: Int[Array, "B T"]) -> Float[Array, "B t V"]:
        context = jnp.zeros((2, 1, BLOCKS.width))
        return merge(definition, params, stats)(tokens, context, train=True).logits[:, :-1]

    tokens = np.random.default_rng(0).integers(0, 15, (2, length))
    last = np.arange(length) == length - 1
    return Spread.of((logits(params, stats, tokens) != logits(params, stats, tokens + last)).mean((1, 2, 3)))


def _gradients(task: Task, blocks: TransformerConfig, seeds: tuple[int, ...]) -> list[Spread]:
    """Norm of the loss's gradient for the parameters of each layer of a fresh model."""
    definition, params, _ = fresh(task.model(blocks), seeds)
    inputs, answers = jnp.asarray(task.examples.inputs[:32]), task.examples.answers[:32]

    def loss(params: Tree) -> Array:
        logits = merge(definition, params)(inputs, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()

    @jax.jit
    @jax.vmap
    def by_layer(params: Tree) -> Float[Array, " L"]:
        leaves = jax.tree.leaves(jax.grad(loss)(params)["encoder"]["blocks"])  # each [L, ...]
        return jnp.sqrt(sum((leaf.reshape(blocks.depth, -1) ** 2).sum(axis=1) for leaf in leaves))

    return [Spread.of(layer) for layer in by_layer(params).T]


STUDY = Study(
    name="layernorm-or-batchnorm",
    claim=(
        "Transformers need LayerNorm: BatchNorm suffers from sentences of different length, padding and small batches, "
        "and behaves differently in training and evaluation. And the norm goes before the sublayer (pre-norm): behind "
        "it (post-norm) gradients are large near the output and vanish below."
    ),
    method=(
        f"Encoders of width {BLOCKS.width} with two layers are trained with Adam on equally many examples in batches "
        f"of several sizes: on padded sentences of 2 to {LONGEST} words that answer a question, and on handwritten "
        "digits of 8 x 8 pixels. The learning rate grows with the root of the batch size; the base, alike for both "
        "norms, is the best of those tried for either. Then single answers are compared while the rest of their batch "
        "is exchanged or padded, and fresh models by the gradient of each layer. Longer training (--long) may narrow "
        "the leads."
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
