"""Token and position, added or concatenated: one is the other in disguise; accuracy and cost of both."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.analysis.complexity import complexity
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.attention import MultiHeadAttention
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import combine
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.drawing import COLORS
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Examples, Trained, fresh, keys, trained

STEPS = {"reduced": 200, "full": 600, "long": 3000}  # of each task
WIDTH, VOCABULARY, LENGTH = 32, 64, 12
ADDED, HALVES, MATCHED, WHOLE = "added", "half each", "half each, equal parameters", "whole each"
TOKENS, DIGITS = "token before", "digits"
ROUNDING = 1e-5  # of float32, in deviations

Config = TextEncoderConfig | VisionTransformerConfig


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """The algebra on fresh and trained layers; accuracy and cost of each way.

    Reduced: one task and equal width only.
    """
    reduced = size == "reduced"
    tasks = (TOKENS,) if reduced else (TOKENS, DIGITS)
    data = {task: _examples(task) for task in tasks}
    configs = {task: _configs(task) for task in tasks}
    ways = (ADDED, HALVES) if reduced else tuple(configs[TOKENS])
    models = {
        (task, way): trained(
            partial(_build, configs[task][way]), data[task][0], seeds, steps=STEPS[size], rate=1e-2
        )
        for task in tasks
        for way in ways
    }
    accuracy = {key: model.accuracy(data[key[0]][1]) for key, model in models.items()}
    gained = {
        key: Spread.of(
            100 * (a - b) for a, b in zip(accuracy[key[0], ADDED].values, found.values, strict=True)
        )
        for key, found in accuracy.items()
    }
    sizes = {(task, way): _parameters(configs[task][way]) for task in tasks for way in configs[task]}
    work = {(task, way): complexity(configs[task][way]).forward_flops for task, way in sizes}
    before_training, after = _separable(_fresh_tagger(seeds)), _separable(models[TOKENS, ADDED].params)
    disguise = _disguised(models[TOKENS, HALVES], configs[TOKENS][ADDED], jnp.asarray(data[TOKENS][1].inputs))
    most = tasks[-1]

    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (task, way, accuracy[task, way], sizes[task, way], work[task, way] / 1e6) for task, way in models
    )
    checks = (
        *(
            Check(
                f"token and position can only be added: concatenating costs accuracy ({task}, equal width)",
                gained[task, HALVES],
                "percentage points",
                at_least=5.0,
                essential=True,
            )
            for task in tasks
        ),
        *(
            Check(
                f"it does at equal parameters ({task})",
                gained[task, MATCHED],
                "percentage points",
                at_least=5.0,
            )
            for task in tasks
            if not reduced
        ),
        Check(
            "concatenated vectors behind a linear map are a sum of two linear maps: W [x; p] = U x + V p",
            _linear(seeds),
            "deviations between the two",
            at_most=ROUNDING,
        ),
        Check(
            "a model that concatenates is none that adds (against one that adds, its vectors padded with zeros)",
            disguise,
            "deviations between their logits",
            at_least=100 * ROUNDING,
        ),
        Check(
            "once added, token and place cannot be told apart",
            Spread.of(
                1 - min(pair) for pair in zip(after["token"].values, after["place"].values, strict=True)
            ),
            "of all sums, from which a linear map reads one of them wrongly",
            at_least=0.1,
        ),
        Check(
            f"concatenation costs parameters if a token keeps its width ({most})",
            Spread((sizes[most, WHOLE] / sizes[most, ADDED],)),
            "times those of adding",
            at_least=2.0,
        ),
        Check(
            f"also at equal width ({most})",
            Spread((sizes[most, HALVES] / sizes[most, ADDED],)),
            "times those of adding",
            at_least=1.0,
        ),
    )

    def draw(figure: Figure) -> None:
        accuracies, separable = figure.subplots(1, 2, width_ratios=(3, 2))
        for place, task in enumerate(tasks):
            for at, way in enumerate(ways):
                spread, x = accuracy[task, way], at + 0.2 * place - 0.1
                accuracies.vlines(x, spread.low, spread.high, color=COLORS[place], lw=2)
                accuracies.plot(x, spread.mean, "os"[place], color=COLORS[place], label=None if at else task)
        accuracies.set_xticks(range(len(ways)), [way.replace(", ", ",\n") for way in ways])
        accuracies.set(
            xlabel="token and position",
            ylabel="accuracy (fraction)",
            title="after training",
            ylim=(0.8, 1.01),
        )
        accuracies.legend(loc="lower left")
        names = ("token", "place", "overlap")
        for place, (when, found) in enumerate({"fresh": before_training, "trained": after}.items()):
            for at, name in enumerate(names):
                spread, x = found[name], at + 0.2 * place - 0.1
                separable.vlines(x, spread.low, spread.high, color=COLORS[2 + place], lw=2)
                separable.plot(
                    x, spread.mean, "D^"[place], color=COLORS[2 + place], label=None if at else when
                )
        separable.set_xticks(range(3), ["token read\nfrom sum", "place read\nfrom sum", "shared\ndirections"])
        separable.set(
            xlabel="added vectors", ylabel="measured (fraction, or times chance)", title="token + position"
        )
        separable.set_ylim(bottom=0)
        separable.legend(loc="center")

    others = ", ".join(
        f"{accuracy[task, HALVES].mean:.3f} on '{task}' (added: {accuracy[task, ADDED].mean:.3f})"
        for task in tasks
    )
    return Result(
        Table(
            ("task", "token and position", "accuracy (fraction)", "parameters", "forward pass (MFLOP)"), rows
        ),
        checks,
        f"Concatenation works: at equal width, half of the features each, it reaches {others}, with "
        f"{sizes[most, HALVES] / sizes[most, ADDED]:.2f} times the parameters. It has to cost only if the token is to "
        f"keep its width: then all layers are twice as wide, which takes {sizes[most, WHOLE] / sizes[most, ADDED]:.1f} "
        f"times the parameters and {work[most, WHOLE] / work[most, ADDED]:.1f} times the operations. The two are not "
        "even different things: W [x; p] is U x + V p with the columns of W shared out, and a trained model that "
        "concatenates is one that adds, with zeros where the other half stands: their logits are "
        f"{'equal to the last bit' if disguise.high == 0 else f'{disguise.high:.0e} deviations apart'}. So adding can "
        f"do all that concatenating can, and chooses the shares by itself. Nor does it mix up the two: from the "
        f"sum of any of {VOCABULARY} tokens and {LENGTH} places in {WIDTH} features a linear map reads the token in "
        f"{after['token'].mean:.0%} and the place in {after['place'].mean:.0%} of all cases after training "
        f"({before_training['token'].mean:.0%} and {before_training['place'].mean:.0%} before). Training turns the two "
        f"apart by itself: their directions, which share {before_training['overlap'].mean:.2f} times as much as random "
        f"ones in a fresh model, share {after['overlap'].mean:.2f} times as much in a trained one. A model that adds "
        "learns to concatenate.",
        draw,
        "Left: accuracy of models that add, and that concatenate. Right: what a linear map reads from added vectors, "
        "and how much the directions of tokens and positions have in common (1: as random ones).",
    )


def _examples(task: str) -> tuple[Examples, Examples]:
    if task == DIGITS:
        return digit_examples()
    return sequences([before(1)], vocabulary=VOCABULARY, length=LENGTH)


def _configs(task: str) -> dict[str, Config]:
    """The model of a task, for each way of combining."""
    blocks = TransformerConfig(WIDTH, 2, 4, 2 * WIDTH)
    added: Config = (
        TextEncoderConfig(blocks, VOCABULARY, LENGTH, positions="learned", scale_embedding=False)
        if task == TOKENS
        else VisionTransformerConfig(blocks, (8, 8), (2, 2), channels=1, num_classes=10)
    )
    halves = replace(added, embedding_combination="concat")
    spare = _parameters(added) - _parameters(halves)
    further = round(
        spare / (blocks.depth * (2 * WIDTH + 1))
    )  # features of the feed-forward networks, and their biases
    wider = replace(blocks, feed_forward_width=blocks.feed_forward_width + further)
    matched = replace(halves, transformer=wider)
    whole = replace(halves, transformer=replace(blocks, width=2 * WIDTH, feed_forward_width=4 * WIDTH))
    return {ADDED: added, HALVES: halves, MATCHED: matched, WHOLE: whole}


def _build(config: Config, rngs: nnx.Rngs) -> nnx.Module:
    return Tagger(config, rngs=rngs) if isinstance(config, TextEncoderConfig) else config.build(rngs=rngs)


def _parameters(config: Config) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract(partial(_build, config))[1]))


def _fresh_tagger(seeds: tuple[int, ...]) -> Tree:
    return fresh(partial(_build, _configs(TOKENS)[ADDED]), seeds)[1]


def _linear(seeds: tuple[int, ...]) -> Spread:
    """Difference between W [x; p] and W [x; 0] + W [0; p], W being the query projection of a fresh layer."""
    definition, params, _ = fresh(
        lambda rngs: MultiHeadAttention(2 * WIDTH, 4, use_bias=False, rngs=rngs), seeds
    )

    @jax.jit
    @jax.vmap
    def difference(params: Tree, parts: Float[Array, "2 1 T D"]) -> Array:
        layer, (x, p) = merge(definition, params), parts
        whole = layer.project_query(combine(x, p, "concat"))
        of_x, of_p = (
            layer.project_query(combine(*pair, "concat"))
            for pair in ((x, jnp.zeros_like(p)), (jnp.zeros_like(x), p))
        )
        return jnp.abs(whole - combine(of_x, of_p, "add")).max() / whole.std()

    draws = jax.vmap(lambda key: jax.random.normal(key, (2, 1, LENGTH, WIDTH)))(keys(seeds))
    return Spread.of(difference(params, draws))


def _disguised(halves: Trained, added: Config, tokens: Int[Array, "B T"]) -> Spread:
    """Difference between the logits of models that concatenate and of models that add the same vectors and zeros."""
    half = WIDTH // 2
    embedding = halves.params["encoder"]["embedding"]
    padded = jax.tree.map(lambda leaf: leaf, halves.params)
    padded["encoder"]["embedding"] = {
        part: {"embedding": jnp.pad(embedding[part]["embedding"], ((0, 0), (0, 0), beside))}
        for part, beside in (("tokens", (0, half)), ("positions", (half, 0)))
    }
    definition = abstract(partial(_build, added))[0]

    @jax.jit
    @jax.vmap
    def difference(params: Tree, padded: Tree) -> Array:
        logits = merge(halves.definition, params)(tokens, train=False)
        return jnp.abs(merge(definition, padded)(tokens, train=False) - logits).max() / logits.std()

    return Spread.of(difference(halves.params, padded))


def _separable(params: Tree) -> dict[str, Spread]:
    """Of taggers that add: how well a linear map reads `token` and `place` from sums, and how far directions `overlap`.

    The overlap is the mean squared cosine between centred vectors of both kinds, weighted by their lengths, times D.
    """
    found: dict[str, list[float]] = {"token": [], "place": [], "overlap": []}
    tables = params["encoder"]["embedding"]
    for x, p in zip(
        *(np.asarray(tables[part]["embedding"], float) for part in ("tokens", "positions")), strict=True
    ):
        sums = (x[:, None] + p[None]).reshape(-1, WIDTH)
        features = np.pad(sums, ((0, 0), (0, 1)), constant_values=1.0)
        for name, number in zip(("token", "place"), np.divmod(np.arange(len(sums)), LENGTH), strict=True):
            read = features @ np.linalg.lstsq(features, np.eye(number.max() + 1)[number])[0]
            found[name].append((read.argmax(-1) == number).mean())
        x, p = x - x.mean(0), p - p.mean(0)
        found["overlap"].append(WIDTH * ((x @ p.T) ** 2).sum() / ((x**2).sum() * (p**2).sum()))
    return {name: Spread.of(values) for name, values in found.items()}


STUDY = Study(
    name="add-or-concat",
    claim=(
        "Token and position can only be added, not concatenated: that would need a wider model. Once added, the two "
        "can no longer be told apart."
    ),
    method=(
        f"Two tasks: a ViT reads handwritten digits of 8 x 8 pixels, and a text encoder names at each of {LENGTH} "
        f"random tokens, out of {VOCABULARY}, the one before it in a circle. Positions are learned; models of two "
        f"layers are trained with Adam, all alike. Added: token and position have {WIDTH} features each. Concatenated: "
        f"half of {WIDTH} each, the same with a wider feed-forward network up to equal parameters, or {WIDTH} each in "
        "a model twice as wide. What a sum still tells is read by a linear map fitted by least squares to the sums of "
        "all tokens and places."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.5 (positions are added)",
        "Gehring et al. 2017, Convolutional Sequence to Sequence Learning, section 3.1 (added too)",
    ),
    run=run,
)
