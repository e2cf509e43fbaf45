"""Why dot products are divided by sqrt(d_k): variance, entropy, gradients and training loss, with and without."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.nn.attention import MultiHeadAttention, softmax_scores
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import fresh, keys, train

WIDTHS = {"reduced": (4, 1024), "full": (4, 16, 64, 256, 1024), "long": (4, 16, 64, 256, 1024, 4096)}
STEPS = {"reduced": 60, "full": 400, "long": 2000}
KEYS, QUERIES, GROUPS = 64, 32, 32  # of random attention: each group of queries has keys of its own
PAIRS, EMBEDDING, BATCH = 16, 32, 64  # of the task: pairs to remember, features, examples a step
DIVIDED, PLAIN = "divided by sqrt(d_k)", "not divided"


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """The four quantities against d_k."""
    widths = WIDTHS[size]
    found: dict[str, list] = {DIVIDED: [], PLAIN: []}
    losses: dict[str, list] = {DIVIDED: [], PLAIN: []}
    for width in widths:
        draws = _draws(width, seeds)
        trained = _training(width, STEPS[size], seeds)
        for label, scale in ((DIVIDED, width**-0.5), (PLAIN, 1.0)):
            found[label].append(_at_random(*draws, scale))
            losses[label].append(trained(scale))

    def spreads(label: str, name: str) -> list[Spread]:
        return [Spread.of(np.asarray(at[name])) for at in found[label]]

    def ratio(name: str) -> Spread:
        """Of the widest to the narrowest, not divided."""
        return Spread.of(np.asarray(found[PLAIN][-1][name] / found[PLAIN][0][name]))

    names = ("variance", "entropy", "score_gradient", "median_gradient", "mean_gradient")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (width, label, *(spreads(label, name)[place] for name in names), Spread.of(losses[label][place]))
        for label in (DIVIDED, PLAIN)
        for place, width in enumerate(widths)
    )
    per_width = [np.asarray(at["variance"]) / width for at, width in zip(found[PLAIN], widths, strict=True)]
    projected = _projected_variance(seeds)
    checks = (
        Check(
            "the variance of q.k is d_k (largest relative error over all d_k)",
            Spread.of(np.abs(np.stack(per_width) - 1).max(axis=0)),
            "of d_k",
            at_most=0.1,
            essential=True,
        ),
        Check(
            "it is so for a freshly initialised attention layer too (d_k = 64)",
            Spread.of(projected / 64),
            "of d_k",
            at_least=0.8,
            at_most=1.2,
        ),
        Check(
            f"without division softmax saturates (entropy at d_k = {widths[-1]})",
            spreads(PLAIN, "entropy")[-1],
            "of log(keys)",
            at_most=0.3,
            essential=True,
        ),
        Check(
            "with division it does not",
            spreads(DIVIDED, "entropy")[-1],
            "of log(keys)",
            at_least=0.8,
            essential=True,
        ),
        Check(
            f"without division the softmax's own gradient shrinks (of scores, d_k = {widths[-1]} against {widths[0]})",
            ratio("score_gradient"),
            "times",
            at_most=0.5,
            essential=True,
        ),
        Check(
            "so does the gradient of the typical query (median)",
            ratio("median_gradient"),
            "times",
            at_most=0.5,
        ),
        Check(
            "so does the mean over queries, which is what a batch adds up",
            ratio("mean_gradient"),
            "times",
            at_most=0.5,
        ),
        Check(
            f"without division training is worse at d_k = {widths[-1]}",
            Spread.of(np.asarray(losses[PLAIN][-1] / losses[DIVIDED][-1])),
            "times the loss with division",
            at_least=1.1,
        ),
    )

    def draw(figure: Figure) -> None:
        entropy, gradient, loss = figure.subplots(1, 3)
        for place, label in enumerate((DIVIDED, PLAIN)):
            curve(entropy, widths, spreads(label, "entropy"), label, place)
            curve(gradient, widths, spreads(label, "median_gradient"), f"{label}: median", place)
            curve(loss, widths, [Spread.of(at) for at in losses[label]], label, place)
        curve(gradient, widths, spreads(PLAIN, "mean_gradient"), f"{PLAIN}: mean", 2)
        entropy.set(ylabel="entropy of the weights (fraction of log keys)", title="saturation", ylim=(0, 1))
        gradient.set(ylabel="|d output / d query| (norm)", title="gradient of a query", yscale="log")
        gradient.set_ylim(bottom=1e-6)
        loss.set(ylabel="cross-entropy (nats)", title="recall task, after training", yscale="log")
        for axes in (entropy, gradient, loss):
            axes.set(xlabel="d_k (features of a head)", xscale="log")
            axes.legend()

    score, median, mean = (
        ratio(name).mean for name in ("score_gradient", "median_gradient", "mean_gradient")
    )
    return Result(
        Table(
            (
                "d_k",
                "scores",
                "variance of scores",
                "entropy (of log keys)",
                "gradient of scores, mean",
                "of a query, median",
                "of a query, mean",
                "loss (nats)",
            ),
            rows,
        ),
        checks,
        f"The variance is d_k, and without division the entropy falls to {spreads(PLAIN, 'entropy')[-1].mean:.2f} of "
        f"its largest value. From d_k = {widths[0]} to {widths[-1]} the gradient of the scores shrinks to "
        f"{score:.2g} times, as the textbooks say. But queries and keys are what is trained, and a query's gradient "
        "is that of the scores times keys, whose length grows with sqrt(d_k): its mean does not shrink, it is "
        f"{mean:.2g} times. Only the typical one does (median: {median:.2g} times). Division does not prevent small "
        "gradients so much as gradients that are nearly all zero and now and then huge. Trained on a recall task, "
        f"the head of d_k = {widths[-1]} ends with a loss of {losses[DIVIDED][-1].mean():.2g} nats with division and "
        f"of {losses[PLAIN][-1].mean():.2g} without; guessing has {np.log(PAIRS):.2f}.",
        draw,
        "Entropy of the attention weights, gradient of the output with respect to a query, and the loss of a trained "
        "attention layer, against the width of a head.",
    )


def _draws(width: int, seeds: tuple[int, ...]) -> tuple[Float[np.ndarray, "seeds B N 1 C"], ...]:
    """Independent normal queries, keys and values, as in the argument of the paper."""
    shapes = ((GROUPS, QUERIES, 1, width), (GROUPS, KEYS, 1, width), (GROUPS, KEYS, 1, 1))
    generators = [np.random.default_rng(seed) for seed in seeds]
    return tuple(np.stack([rng.standard_normal(shape, np.float32) for rng in generators]) for shape in shapes)


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def _at_random(
    query: Float[Array, "B T 1 C"],
    others: Float[Array, "B S 1 C"],
    values: Float[Array, "B S 1 1"],
    scale: Array,
) -> dict[str, Array]:
    """Scores, weights and gradients of attention with this factor on its scores."""
    scores = jnp.einsum("bthc,bshc->bhts", query, others) * scale
    weights = softmax_scores(scores, None, None)

    def output(query: Float[Array, "B T 1 C"]) -> Array:
        return output_of(jnp.einsum("bthc,bshc->bhts", query, others) * scale)

    def output_of(scores: Float[Array, "B 1 T S"]) -> Array:
        return jnp.einsum("bhts,bshc->bthc", softmax_scores(scores, None, None), values).sum()

    gradients = jnp.linalg.norm(jax.grad(output)(query), axis=-1)
    entropy = jax.scipy.special.entr(weights).sum(-1).mean() / jnp.log(KEYS)
    return {
        "variance": scores.var(),
        "entropy": entropy,
        "score_gradient": jnp.linalg.norm(jax.grad(output_of)(scores), axis=-1).mean(),
        "median_gradient": jnp.median(gradients),
        "mean_gradient": gradients.mean(),
    }


def _projected_variance(seeds: tuple[int, ...]) -> Float[np.ndarray, " seeds"]:
    """Variance of the undivided scores of a fresh layer over normalised tokens."""

    @jax.jit
    @jax.vmap
    def variance(params: Tree, key: Array) -> Array:
        layer = merge(definition, params)
        x = jax.random.normal(key, (1, 256, 256))
        query, (others, _) = layer.project_query(x), layer.project_key_value(x)
        return jnp.einsum("bthc,bshc->bhts", query, others).var()

    definition, params, _ = fresh(lambda rngs: MultiHeadAttention(256, 4, rngs=rngs), seeds)
    return np.asarray(variance(params, keys(seeds)))


class Recall(nnx.Module):
    """One head looks up, among pairs of a name and a value, the value of a name."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.names = nnx.Embed(PAIRS, EMBEDDING, rngs=rngs)
        self.values = nnx.Embed(PAIRS, EMBEDDING, rngs=rngs)
        self.norm = nnx.LayerNorm(EMBEDDING, rngs=rngs)
        self.attention = MultiHeadAttention(EMBEDDING, 1, head_width=width, query_key_scale=1.0, rngs=rngs)
        self.head = nnx.Linear(EMBEDDING, PAIRS, rngs=rngs)

    def __call__(self, values: Int[Array, "B names"], asked: Int[Array, " B"], scale: Array) -> Array:
        pairs = self.norm(self.names.embedding[...] + self.values(values))
        query = self.attention.project_query(self.norm(self.names(asked))[:, None])
        found = self.attention.attend(query * scale, *self.attention.project_key_value(pairs), train=True)
        return self.head(found.values[:, 0])


def _training(
    width: int, steps: int, seeds: tuple[int, ...]
) -> Callable[[float], Float[np.ndarray, " seeds"]]:
    """For a factor on the scores, the mean loss over the last tenth of the steps, of examples never seen before."""

    def loss_of(scale: Array, model: Recall, batch: tuple[Array, Array]) -> Array:
        values, asked = batch
        wanted = jnp.take_along_axis(values, asked[:, None], axis=1)[:, 0]
        return optax.softmax_cross_entropy_with_integer_labels(model(values, asked, scale), wanted).mean()

    def last_loss(params: Tree, batches: tuple[Array, Array], scale: Array) -> Array:
        _, _, losses = train(definition, params, {}, partial(loss_of, scale), batches, rate=3e-3)
        return losses[-steps // 10 :].mean()

    definition, params, _ = fresh(lambda rngs: Recall(width, rngs=rngs), seeds)
    generators = [np.random.default_rng(seed) for seed in seeds]
    values, asked = (
        np.stack([rng.integers(0, PAIRS, (steps, BATCH, *shape)) for rng in generators])
        for shape in ((PAIRS,), ())
    )
    run = jax.jit(jax.vmap(last_loss, in_axes=(0, 0, None)))
    return lambda scale: np.asarray(run(params, (values, asked), scale))


STUDY = Study(
    name="scaling",
    claim=(
        "Dot products are divided by sqrt(d_k) because their variance grows with d_k: large scores push the softmax "
        "into regions where it has extremely small gradients."
    ),
    method=(
        f"{QUERIES * GROUPS:,} independent standard normal queries look at {KEYS} such keys each: variance of the "
        "scores, entropy of the weights, and the norm of each query's gradient of its output (a weighted sum of "
        f"standard normal numbers). Then one attention head is trained to recall the value of one of {PAIRS} names "
        f"(Adam, rate up to 0.003, batches of {BATCH} fresh examples); the loss is that of the last tenth of the "
        "steps."
    ),
    sources=("Vaswani et al. 2017, Attention Is All You Need, section 3.2.1 and footnote 4",),
    run=run,
)
