"""One matrix for queries and keys: symmetric scores exactly, symmetric attention not, accuracy task by task."""

from collections.abc import Callable
from functools import partial
from math import sqrt
from statistics import stdev

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.attention import MultiHeadAttention, softmax_scores
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.nn.positions import rotary
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import COLORS
from vitjax.studies.lab.sequences import Tagger, before, mirrored, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, Config, Examples, fresh, keys, trained

STEPS = {"reduced": 200, "full": 800, "long": 4000}  # of each task
MODELS = {"reduced": 1, "full": 4, "long": 16}  # of each seed
TOKENS, HEADS = 16, 4  # that a fresh layer reads, and with how many heads
WIDTH, VOCABULARY, LENGTH = 32, 16, 12
SHARED, SEPARATE = "shared", "separate"
RING = "token before, 1 head"
CEILING = 1 - (1 - 1 / VOCABULARY) / LENGTH  # of knowing all tokens but one, which is guessed

Task = tuple[Callable[[bool], Config], tuple[Examples, Examples]]


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Symmetry of fresh layers; accuracy of trained models that look back, across, or at images."""
    layers = {name: _symmetry(name == SHARED, seeds) for name in (SHARED, SEPARATE)}
    tasks = _tasks() if size != "reduced" else {RING: _tasks()[RING]}
    models = tuple(MODELS[size] * seed + place for seed in seeds for place in range(MODELS[size]))
    accuracy = {
        task: {
            name: trained(config(name == SHARED), learned, models, steps=STEPS[size], rate=5e-3).accuracy(
                held_out
            )
            for name in layers
        }
        for task, (config, (learned, held_out)) in tasks.items()
    }
    gained = {task: 100 * (found[SEPARATE] - found[SHARED]) for task, found in accuracy.items()}
    measured = {
        "asymmetry of scores (deviations)": "scores",
        "the same with rotary positions (deviations)": "rotated",
        "asymmetry of weights (largest difference)": "weights",
        "weight of a token on itself (fraction)": "itself",
    }
    rows: list[tuple[Cell, ...]] = [
        (what, *(layer[part] for layer in layers.values())) for what, part in measured.items()
    ]
    rows += [(f"accuracy, {task} (fraction)", *found.values()) for task, found in accuracy.items()]
    checks = (
        Check(
            "one shared matrix makes the scores symmetric",
            layers[SHARED]["scores"],
            "deviations between q_i.k_j and q_j.k_i",
            at_most=1e-5,
            essential=True,
        ),
        Check(
            "rotary positions leave them so: they turn queries and keys alike",
            layers[SHARED]["rotated"],
            "deviations",
            at_most=1e-5,
        ),
        Check(
            "separate matrices do not",
            layers[SEPARATE]["scores"],
            "deviations",
            at_least=0.1,
            essential=True,
        ),
        Check(
            "then the attention is symmetric too, after the softmax",
            layers[SHARED]["weights"],
            "largest difference of a weight and its mirror image",
            at_most=1e-5,
        ),
        *(
            Check(f"it costs accuracy ({task})", gain, "percentage points", at_least=1.0)
            for task, gain in gained.items()
        ),
    )

    def draw(figure: Figure) -> None:
        itself, accuracies = figure.subplots(1, 2, width_ratios=(1, 2))
        for place, name in enumerate(layers):
            _dot(itself, place, layers[name]["itself"], place, None)
            for group, found in enumerate(accuracy.values()):
                _dot(accuracies, group + 0.2 * place - 0.1, found[name], place, None if group else name)
        itself.axhline(1 / TOKENS, color=COLORS[2], ls="--", label="even attention")
        itself.set_xticks([0, 1], list(layers))
        itself.set(xlabel="query and key matrix", ylabel="weight on itself (fraction)", title="a fresh layer")
        itself.set(xlim=(-0.5, 1.5), ylim=(0, 1))
        accuracies.axhline(CEILING, color=COLORS[2], ls="--", label="all tokens before but one")
        accuracies.set_xticks(range(len(tasks)), [task.replace(", ", "\n") for task in tasks])
        accuracies.set(xlabel="task", ylabel="accuracy (fraction)", title="after training")
        itself.legend()
        accuracies.legend(loc="lower center", bbox_to_anchor=(0.6, 0.1))

    def points(task: str) -> str:
        """The mean gain with its standard error."""
        gain = gained[task]
        return f"{gain.mean:.1f} ± {stdev(gain.values) / sqrt(len(models)):.1f}"

    others = "".join(f"; on '{task}' {points(task)}" for task in tasks if task != RING)
    return Result(
        Table(("what", *layers), tuple(rows)),
        checks,
        "With one matrix the scores are symmetric. The attention is not: softmax divides each row by a sum of its "
        f"own, so a weight and its mirror image differ by up to {layers[SHARED]['weights'].mean:.2f}. A token's "
        "score with itself is then a square, so a fresh layer looks at itself with a weight of "
        f"{layers[SHARED]['itself'].mean:.2f}, against {layers[SEPARATE]['itself'].mean:.2f} with two matrices. "
        "What symmetry forbids is a circle of preferences: if each token of a ring is to prefer the one before to "
        "the one behind, each of these scores would have to be larger than the next, all the way round to itself. "
        f"One head has to give up one of {LENGTH} tokens: {accuracy[RING][SHARED].mean:.3f} of the answers are right "
        f"after {STEPS[size]:,} steps, and guessing that one token gives {CEILING:.3f}. There separate matrices gain "
        f"{points(RING)} percentage points at equal parameters (with standard error){others}. So the cost is not "
        "general: it comes where few heads must look one way all round. Under a causal mask, where no token looks "
        "ahead, there is no such circle.",
        draw,
        f"Left: how much a token attends to itself among {TOKENS}. Right: accuracy of {len(models)} models a task "
        "with equally many parameters.",
    )


def _dot(axes: Axes, x: int | float, spread: Spread, place: int, label: str | None) -> None:
    axes.vlines(x, spread.low, spread.high, color=COLORS[place], lw=2)
    axes.plot(x, spread.mean, color=COLORS[place], marker="os"[place], ms=7, ls="", label=label)


def _symmetry(shared: bool, seeds: tuple[int, ...]) -> dict[str, Spread]:
    """Of a fresh layer over random normal tokens."""
    layer_of = Build(partial(MultiHeadAttention, WIDTH, HEADS, share_query_key=shared))
    definition, params, _ = fresh(layer_of, seeds)

    def asymmetry(matrix: Float[Array, "B H T T"]) -> Array:
        return jnp.abs(matrix - matrix.mT).max()

    @jax.jit
    @jax.vmap
    def measured(params: Tree, x: Float[Array, "1 T D"]) -> dict[str, Array]:
        layer = merge(definition, params)

        def scores(*rotation) -> Float[Array, "1 H T T"]:
            query, (others, _) = layer.project_query(x, *rotation), layer.project_key_value(x, *rotation)
            return jnp.einsum("bthc,bshc->bhts", query, others) * (WIDTH // HEADS) ** -0.5

        plain, rotated = scores(), scores(rotary(jnp.arange(TOKENS)[None], WIDTH // HEADS))
        weights = softmax_scores(plain, None, None)
        return {
            "scores": asymmetry(plain) / plain.std(),
            "rotated": asymmetry(rotated) / rotated.std(),
            "weights": asymmetry(weights),
            "itself": jnp.diagonal(weights, axis1=-2, axis2=-1).mean(),
        }

    found = measured(params, jax.vmap(lambda key: jax.random.normal(key, (1, TOKENS, WIDTH)))(keys(seeds)))
    return {name: Spread.of(values) for name, values in found.items()}


def _tasks() -> dict[str, Task]:
    """Models of both kinds, from easy to hard for a symmetric score, and what they learn."""

    def transformer(shared: bool, depth: int, heads: int) -> TransformerConfig:
        """A shared matrix saves D * D numbers a layer; the feed-forward network gets them."""
        feed_forward = 2 * WIDTH + (WIDTH // 2 if shared else 0)
        return TransformerConfig(WIDTH, depth, heads, feed_forward, share_query_key=shared)

    def tagger(heads: int, shared: bool) -> Config:
        one_layer = transformer(shared, 1, heads)
        return Build(
            partial(Tagger, TextEncoderConfig(one_layer, VOCABULARY, LENGTH, positions="sinusoidal"))
        )

    def vit(shared: bool) -> Config:
        return digit_vit(transformer(shared, 2, HEADS))

    backwards, across = (
        sequences([answer], vocabulary=VOCABULARY, length=LENGTH) for answer in (before(1), mirrored)
    )
    return {
        RING: (partial(tagger, 1), backwards),
        f"token before, {HEADS} heads": (partial(tagger, HEADS), backwards),
        "mirrored token, 1 head": (partial(tagger, 1), across),
        f"digits, {HEADS} heads": (vit, digit_examples()),
    }


STUDY = Study(
    name="separate-query-key",
    claim=(
        "Queries and keys need matrices of their own: with a shared one attention would be symmetric, which costs "
        "accuracy."
    ),
    method=(
        f"A fresh attention layer reads {TOKENS} random tokens. Then models with equally many parameters (what the "
        f"shared matrix saves goes to the feed-forward network) are trained with Adam: one layer that reads {LENGTH} "
        f"random tokens, out of {VOCABULARY}, and names at each the one before it in a circle, or the one as far from "
        "the other end; and a two-layer ViT that reads handwritten digits of 8 x 8 pixels. Accuracy is that on "
        "examples held out; a check on it is about every pair of models that start from one seed."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.2",
        "Kitaev et al. 2020, Reformer, section 2 (shared queries and keys did as well there)",
    ),
    run=run,
)
