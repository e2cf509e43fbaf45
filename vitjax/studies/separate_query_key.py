"""One matrix for queries and keys: symmetric scores exactly, symmetric attention not, accuracy measured."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.attention import MultiHeadAttention, softmax_scores
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.studies.digits import digit_examples
from vitjax.studies.drawing import COLORS
from vitjax.studies.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.training import Examples, fresh, keys, trained

STEPS = {"reduced": 100, "full": 600, "long": 3000}  # of each task
WIDTH, HEADS, TOKENS = 64, 4, 16
VOCABULARY, LENGTH, SEQUENCES = 16, 12, 8192
SHARED, SEPARATE = "shared", "separate"


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Symmetry of fresh layers; accuracy of trained models that look back, or at images."""
    layers = {name: _symmetry(shared, seeds) for name, shared in ((SHARED, True), (SEPARATE, False))}
    tasks = (
        {"token before": _previous} if size == "reduced" else {"token before": _previous, "digits": _digits}
    )
    accuracy = {
        task: {name: measure(name == SHARED, STEPS[size], seeds) for name in layers}
        for task, measure in tasks.items()
    }

    def points(task: str) -> Spread:
        """What separate matrices gain, in percentage points."""
        pairs = zip(accuracy[task][SEPARATE].values, accuracy[task][SHARED].values, strict=True)
        return Spread.of(100 * (separate - shared) for separate, shared in pairs)

    names = ("scores", "weights", "itself")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, *(layers[name][part] for part in names), *(found[name] for found in accuracy.values()))
        for name in layers
    )
    checks = (
        Check(
            "one shared matrix makes the scores symmetric",
            layers[SHARED]["scores"],
            "deviations between q_i.k_j and q_j.k_i, at most",
            at_most=1e-5,
            essential=True,
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
            Check(f"it costs accuracy (task: {task})", points(task), "percentage points", at_least=1.0)
            for task in tasks
        ),
    )

    def draw(figure: Figure) -> None:
        itself, trained = figure.subplots(1, 2)
        for place, name in enumerate((SHARED, SEPARATE)):
            _bar(itself, place, layers[name]["itself"], place, None)
            for group, found in enumerate(accuracy.values()):
                _bar(trained, group + 0.35 * place, found[name], place, None if group else name)
        itself.axhline(1 / TOKENS, color=COLORS[2], ls="--", label="even attention")
        itself.set_xticks([0, 1], [SHARED, SEPARATE])
        itself.set(xlabel="query and key matrix", ylabel="weight on itself (fraction)", title="a fresh layer")
        trained.set_xticks([group + 0.175 for group in range(len(tasks))], list(tasks))
        trained.set(xlabel="task", ylabel="accuracy (fraction)", title="after training", ylim=(0, 1.3))
        itself.legend()
        trained.legend(loc="upper right")

    gained = {task: points(task) for task in tasks}
    gains = " and ".join(
        f"{gain.mean:.1f} ({gain.low:.1f} to {gain.high:.1f}) on the task '{task}'"
        for task, gain in gained.items()
    )
    return Result(
        Table(
            (
                "query and key matrix",
                "asymmetry of scores (deviations)",
                "asymmetry of weights (largest difference)",
                "weight of a token on itself (fraction)",
                *(f"accuracy, {task} (fraction)" for task in tasks),
            ),
            rows,
        ),
        checks,
        "With one matrix the scores are symmetric. The attention is not: softmax divides each row by a sum of its "
        f"own, so a weight and its mirror image differ by up to {layers[SHARED]['weights'].mean:.2f}. What a shared "
        "matrix does to a fresh layer is another thing: a token's score with itself is a square, so it looks at "
        f"itself with a weight of {layers[SHARED]['itself'].mean:.2f}, against {layers[SEPARATE]['itself'].mean:.2f} "
        f"with two. After {STEPS[size]:,} steps, at equal parameters, separate matrices gain {gains}, in percentage "
        "points of accuracy.",
        draw,
        f"Left: how much a token attends to itself among {TOKENS}. Right: accuracy of models with equally many "
        "parameters. Grey lines: lowest to highest seed.",
    )


def _bar(axes: Any, x: int | float, spread: Spread, place: int, label: str | None) -> None:
    axes.bar(x, spread.mean, width=0.33, color=COLORS[place], label=label)
    axes.vlines(x, spread.low, spread.high, color="#888888", lw=3)


def _symmetry(shared: bool, seeds: tuple[int, ...]) -> dict[str, Spread]:
    """Of a fresh layer over random normal tokens."""
    build = partial(MultiHeadAttention, WIDTH, HEADS, share_query_key=shared)
    definition, params, _ = fresh(lambda rngs: build(rngs=rngs), seeds)

    @jax.jit
    @jax.vmap
    def measured(params: Tree, x: Float[Array, "1 N D"]) -> dict[str, Array]:
        layer = merge(definition, params)
        query, (others, _) = layer.project_query(x), layer.project_key_value(x)
        scores = jnp.einsum("bthc,bshc->bhts", query, others) * (WIDTH // HEADS) ** -0.5
        weights = softmax_scores(scores, None, None)
        return {
            "scores": jnp.abs(scores - scores.mT).max() / scores.std(),
            "weights": jnp.abs(weights - weights.mT).max(),
            "itself": jnp.diagonal(weights, axis1=-2, axis2=-1).mean(),
        }

    found = measured(params, jax.vmap(lambda key: jax.random.normal(key, (1, TOKENS, WIDTH)))(keys(seeds)))
    return {name: Spread.of(values) for name, values in found.items()}


def _transformer(shared: bool, depth: int) -> TransformerConfig:
    """A shared matrix saves D * D numbers a layer; the feed-forward network gets them."""
    feed_forward = 2 * WIDTH + (WIDTH // 2 if shared else 0)
    return TransformerConfig(WIDTH, depth, HEADS, feed_forward, share_query_key=shared)


class Tagger(nnx.Module):
    """An encoder of one layer that names a token at each place."""

    def __init__(self, shared: bool, *, rngs: nnx.Rngs):
        config = TextEncoderConfig(_transformer(shared, 1), VOCABULARY, LENGTH, positions="sinusoidal")
        self.encoder = config.build(rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: Int[Array, "B S"], *, train: bool) -> Float[Array, "B S V"]:
        return self.head(self.encoder.encode(tokens, train=train)[0])


def _previous(shared: bool, steps: int, seeds: tuple[int, ...]) -> Spread:
    """Accuracy, on new sequences, of naming at each place the token before it."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (SEQUENCES, LENGTH))
    examples = Examples(tokens, np.roll(tokens, 1, axis=-1))
    learned, held_out = (
        Examples(examples.inputs[part], examples.answers[part]) for part in (slice(256, None), slice(256))
    )
    return trained(lambda rngs: Tagger(shared, rngs=rngs), learned, seeds, steps=steps).accuracy(held_out)


def _digits(shared: bool, steps: int, seeds: tuple[int, ...]) -> Spread:
    """Accuracy of a small ViT on held-out handwritten digits."""
    config = VisionTransformerConfig(
        _transformer(shared, 2), image_size=(8, 8), patch_size=(2, 2), channels=1, num_classes=10
    )
    learned, held_out = digit_examples()
    return trained(lambda rngs: config.build(rngs=rngs), learned, seeds, steps=steps).accuracy(held_out)


STUDY = Study(
    name="separate-query-key",
    claim=(
        "Queries and keys need matrices of their own: with a shared one attention would be symmetric, which costs "
        "accuracy."
    ),
    method=(
        f"A fresh attention layer reads {TOKENS} random tokens. Then models with equally many parameters (what the "
        "shared matrix saves goes to the feed-forward network) are trained with Adam: one layer that names at each "
        "place the token before it, and a two-layer ViT that reads handwritten digits of 8 x 8 pixels."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.2",
        "Kitaev et al. 2020, Reformer, section 2 (shared queries and keys did as well there)",
    ),
    run=run,
)
