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
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, fresh, keys, train

WIDTHS = {"reduced": (4, 1024), "full": (4, 16, 64, 256, 1024), "long": (4, 16, 64, 256, 1024, 4096)}
STEPS = {"reduced": 60, "full": 400, "long": 2000}
KEYS, QUERIES, GROUPS = 64, 32, 32  # of random attention: each group of queries has keys of its own
PAIRS, EMBEDDING, BATCH = 16, 32, 64  # of the task: pairs to remember, features, examples a step
DIVIDED, PLAIN = "divided by sqrt(d_k)", "not divided"
GRADIENTS = ("score", "median", "mean")
COLUMNS = {
    "variance": "variance of scores",
    "entropy": "entropy (of log keys)",
    "score_gradient": "gradient of scores, mean",
    "median_gradient": "of a query, median",
    "mean_gradient": "of a query, mean",
    "loss": "loss (nats)",
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """The four quantities against d_k."""
    widths = WIDTHS[size]
    found: dict[str, dict[str, list[Spread]]] = {
        DIVIDED: {},
        PLAIN: {},
    }  # of each kind, by name, at each width
    for width in widths:
        draws = _draws(width, seeds)
        losses = _training(width, STEPS[size], seeds)
        for kind, scale in ((DIVIDED, width**-0.5), (PLAIN, 1.0)):
            for name, values in {**_at_random(*draws, scale), "loss": losses(scale)}.items():
                found[kind].setdefault(name, []).append(Spread.of(values))
    plain, divided = found[PLAIN], found[DIVIDED]
    narrow, wide = widths[0], widths[-1]
    errors = (abs(at / width - 1) for at, width in zip(plain["variance"], widths, strict=True))
    score, median, mean = (plain[f"{of}_gradient"][-1] / plain[f"{of}_gradient"][0] for of in GRADIENTS)
    checks = (
        Check(
            "the variance of q.k is d_k (largest relative error over all d_k)",
            Spread.most(*errors),
            "of d_k",
            at_most=0.1,
            essential=True,
        ),
        Check(
            "it is so for a freshly initialised attention layer too (d_k = 64)",
            _projected_variance(seeds) / 64,
            "of d_k",
            at_least=0.8,
            at_most=1.2,
        ),
        Check(
            f"without division softmax saturates (entropy at d_k = {wide})",
            plain["entropy"][-1],
            "of log(keys)",
            at_most=0.3,
            essential=True,
        ),
        Check(
            "with division it does not", divided["entropy"][-1], "of log(keys)", at_least=0.8, essential=True
        ),
        Check(
            f"without division the softmax's own gradient shrinks (of scores, d_k = {wide} against {narrow})",
            score,
            "times",
            at_most=0.5,
            essential=True,
        ),
        Check("so does the gradient of the typical query (median)", median, "times", at_most=0.5),
        Check("so does the mean over queries, which is what a batch adds up", mean, "times", at_most=0.5),
        Check(
            f"without division training is worse at d_k = {wide}",
            plain["loss"][-1] / divided["loss"][-1],
            "times the loss with division",
            at_least=1.1,
        ),
    )

    def draw(figure: Figure) -> None:
        entropy, gradient, loss = figure.subplots(1, 3)
        queries = {f"{kind}: median": found[kind]["median_gradient"] for kind in found}
        queries[f"{PLAIN}: mean"] = plain["mean_gradient"]
        for axes, curves, ylabel, title, log in (
            (entropy, _of("entropy"), "entropy of the weights (fraction of log keys)", "saturation", "x"),
            (gradient, queries, "|d output / d query| (norm)", "gradient of a query", "xy"),
            (loss, _of("loss"), "cross-entropy (nats)", "recall task, after training", "xy"),
        ):
            panel(
                axes, widths, curves, xlabel="d_k (features of a head)", ylabel=ylabel, title=title, log=log
            )
        entropy.set(ylim=(0, 1))
        gradient.set(ylim=(1e-6, None))

    def _of(name: str) -> dict[str, list[Spread]]:
        return {kind: found[kind][name] for kind in found}

    return Result(
        Table(
            ("d_k", "scores", *COLUMNS.values()),
            tuple(
                (width, kind, *(of[name][place] for name in COLUMNS))
                for kind, of in found.items()
                for place, width in enumerate(widths)
            ),
        ),
        checks,
        f"The variance is d_k, and without division the entropy falls to {plain['entropy'][-1].mean:.2f} of its "
        f"largest value. From d_k = {narrow} to {wide} the gradient of the scores shrinks to {score.mean:.2g} times, "
        "as the textbooks say. But queries and keys are what is trained, and a query's gradient is that of the scores "
        f"times keys, whose length grows with sqrt(d_k): its mean does not shrink, it is {mean.mean:.2g} times. Only "
        f"the typical one does (median: {median.mean:.2g} times). Division does not prevent small gradients so much as "
        "gradients that are nearly all zero and now and then huge. Trained on a recall task, the head of "
        f"d_k = {wide} ends with a loss of {divided['loss'][-1].mean:.2g} nats with division and of "
        f"{plain['loss'][-1].mean:.2g} without; guessing has {np.log(PAIRS):.2f}. Smaller initial weights of queries "
        "and keys would do at the start what division does, and both losses are at one learning rate.",
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


def _projected_variance(seeds: tuple[int, ...]) -> Spread:
    """Variance of the undivided scores of a fresh layer over normalised tokens."""

    @jax.jit
    @jax.vmap
    def variance(params: Tree, key: Array) -> Array:
        layer = merge(definition, params)
        x = jax.random.normal(key, (1, 256, 256))
        query, (others, _) = layer.project_query(x), layer.project_key_value(x)
        return jnp.einsum("bthc,bshc->bhts", query, others).var()

    definition, params, _ = fresh(Build(partial(MultiHeadAttention, 256, 4)), seeds)
    return Spread.of(variance(params, keys(seeds)))


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

    definition, params, _ = fresh(Build(partial(Recall, width)), seeds)
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
