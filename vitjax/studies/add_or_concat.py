"""Token and position, added or concatenated: one is the other in disguise; accuracy and cost of both."""

from functools import partial
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
from flax.nnx import GraphDef
from jaxtyping import Array
from matplotlib.figure import Figure

from vitjax.analysis.complexity import complexity
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import Combination
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import bars
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, Config, Examples, Trained, fresh, trained

STEPS = {"reduced": 200, "full": 600, "long": 3000}  # of each task
WIDTH, VOCABULARY, LENGTH = 32, 64, 12
ADDED, HALVES, WHOLE = WAYS = ("added", "half each", "whole each")
TOKENS, DIGITS = "token before", "digits"
FRESH, TRAINED = "before training", "after training"


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Accuracy and cost of each way, and what a sum still tells; reduced: one task and equal width only."""
    data = {TOKENS: sequences([before(1)], vocabulary=VOCABULARY, length=LENGTH)}
    if size != "reduced":
        data[DIGITS] = digit_examples()
    ways = WAYS[:2] if size == "reduced" else WAYS
    models = {
        (task, way): trained(_model(task, way), learned, seeds, steps=STEPS[size], rate=1e-2)
        for task, (learned, _) in data.items()
        for way in ways
    }
    accuracy = {(task, way): model.accuracy(data[task][1]) for (task, way), model in models.items()}
    costs = {(task, way): complexity(_config(task, way)) for task in data for way in WAYS}
    most = list(data)[-1]
    parameters, operations = (
        {way: Spread((of(costs[most, way]) / of(costs[most, ADDED]),)) for way in WAYS}
        for of in (attrgetter("total_parameters"), attrgetter("forward_flops"))
    )
    fresh_params = fresh(_model(TOKENS, ADDED), seeds)[1]
    told = {FRESH: _told(fresh_params), TRAINED: _told(models[TOKENS, ADDED].params)}
    disguise = _disguise(models[TOKENS, HALVES], models[TOKENS, ADDED].definition, data[TOKENS][1])

    checks = (
        *(
            Check(
                f"token and position can only be added: concatenating costs accuracy ({task}, equal width)",
                100 * (accuracy[task, ADDED] - accuracy[task, HALVES]),
                "percentage points",
                at_least=5.0,
                essential=True,
            )
            for task in data
        ),
        Check(
            "a model that concatenates is none that adds (against one that adds, its vectors padded with zeros)",
            disguise,
            "deviations between their logits",
            at_least=1e-3,
        ),
        Check(
            "once added, token and place cannot be told apart",
            Spread.least(told[TRAINED]["token"], told[TRAINED]["place"]),
            "of all sums, from which a linear map reads the worse of them rightly",
            at_most=0.9,
        ),
        Check(
            "nothing keeps their directions apart in a trained model",
            told[TRAINED]["overlap"],
            "times as much in common as random ones",
            at_least=0.9,
        ),
        Check(
            f"concatenation costs parameters if a token keeps its width ({most})",
            parameters[WHOLE],
            "times those of adding",
            at_least=2.0,
        ),
        Check(f"also at equal width ({most})", parameters[HALVES], "times those of adding", at_least=1.0),
    )

    def draw(figure: Figure) -> None:
        right, cost, sums = figure.subplots(1, 3)
        accuracies = {task: [accuracy[task, way] for way in ways] for task in data}
        times = {
            "parameters": [parameters[way] for way in ways],
            "operations": [operations[way] for way in ways],
        }
        reading = {when: [found["token"], found["place"]] for when, found in told.items()}
        names = [*accuracies, *times, *reading]
        way, labels = "token and position (how)", [way.replace(" ", "\n") for way in ways]
        bars(
            right,
            labels,
            accuracies,
            xlabel=way,
            ylabel="accuracy (fraction)",
            title="what is learned",
            names=names,
            ylim=(0, 1.3),
        )
        bars(
            cost,
            labels,
            times,
            xlabel=way,
            ylabel="cost (times that of adding)",
            title=f"what it costs ({most})",
            names=names,
            legend="upper left",
        )
        bars(
            sums,
            ("token", "place"),
            reading,
            xlabel="what a linear map reads (kind)",
            ylabel="right (fraction)",
            title="what an added vector tells",
            names=names,
            ylim=(0, 1.3),
        )

    reached = ", ".join(
        f"{accuracy[task, HALVES].mean:.3f} on '{task}' (added: {accuracy[task, ADDED].mean:.3f})"
        for task in data
    )
    return Result(
        Table(
            ("task", "token and position", "accuracy (fraction)", "parameters", "forward pass (MFLOP)"),
            tuple(
                (*key, accuracy[key], costs[key].total_parameters, costs[key].forward_flops / 1e6)
                for key in models
            ),
        ),
        checks,
        f"Concatenation works: at equal width, half of the features each, it reaches {reached}, with "
        f"{parameters[HALVES].mean:.2f} times the parameters. It has to cost only if the token is to keep its width: "
        f"then all layers are twice as wide, which takes {parameters[WHOLE].mean:.1f} times the parameters and "
        f"{operations[WHOLE].mean:.1f} times the operations. The two are not even different things: a trained model "
        "that concatenates is one that adds, with zeros where the other half stands; their logits differ by "
        f"{disguise.high:.1g} deviations. So adding can do all that concatenating can, and chooses the shares by "
        f"itself. Nor does it mix up the two: from the sums of {VOCABULARY} tokens and {LENGTH} places in {WIDTH} "
        f"features a linear map reads the token in {told[TRAINED]['token'].mean:.0%} and the place in "
        f"{told[TRAINED]['place'].mean:.0%} of all cases after training ({told[FRESH]['token'].mean:.0%} and "
        f"{told[FRESH]['place'].mean:.0%} before). Their directions have {told[FRESH]['overlap'].mean:.2f} times as "
        f"much in common as random ones before training and {told[TRAINED]['overlap'].mean:.2f} times after: a model "
        "that adds learns to concatenate.",
        draw,
        "Token and position, added or concatenated with half of the width or a whole width each. Left: accuracy. "
        "Middle: parameters and operations of a forward pass. Right: what a linear map reads from sums of token and "
        "position.",
    )


def _config(task: str, way: str) -> TextEncoderConfig | VisionTransformerConfig:
    """The encoder that reads a task, two layers, with one way of combining."""
    width = WIDTH * (2 if way == WHOLE else 1)
    blocks = TransformerConfig(width, 2, 4, 2 * width)
    combination: Combination = "add" if way == ADDED else "concat"
    if task == DIGITS:
        return digit_vit(blocks, embedding_combination=combination)
    return TextEncoderConfig(
        blocks,
        VOCABULARY,
        LENGTH,
        positions="learned",
        scale_embedding=False,
        embedding_combination=combination,
    )


def _model(task: str, way: str) -> Config:
    """What is trained: an encoder of tokens names them by a layer of its own."""
    config = _config(task, way)
    return Build(partial(Tagger, config)) if isinstance(config, TextEncoderConfig) else config


def _disguise(halves: Trained, added: GraphDef, held_out: Examples) -> Spread:
    """Difference between the logits of models that concatenate and of models that add the same vectors and zeros."""
    half = WIDTH // 2
    encoder = halves.params["encoder"]
    tables = {
        part: {"embedding": jnp.pad(encoder["embedding"][part]["embedding"], ((0, 0), (0, 0), beside))}
        for part, beside in (("tokens", (0, half)), ("positions", (half, 0)))
    }
    padded = {**halves.params, "encoder": {**encoder, "embedding": tables}}

    @jax.jit
    @jax.vmap
    def difference(params: Tree, padded: Tree) -> Array:
        tokens = jnp.asarray(held_out.inputs)
        logits = merge(halves.definition, params)(tokens, train=False)
        return jnp.abs(merge(added, padded)(tokens, train=False) - logits).max() / logits.std()

    return Spread.of(difference(halves.params, padded))


def _told(params: Tree) -> dict[str, Spread]:
    """Of taggers that add: how well a linear map reads `token` and `place` from sums, and the `overlap` of the two.

    The overlap is the mean squared cosine between centred vectors of both kinds, weighted by their lengths, times D.
    """
    found: dict[str, list[float]] = {"token": [], "place": [], "overlap": []}
    embedding = params["encoder"]["embedding"]
    tables = (np.asarray(embedding[part]["embedding"], float) for part in ("tokens", "positions"))
    for x, p in zip(*tables, strict=True):
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
        f"half of {WIDTH} each, or {WIDTH} each in a model twice as wide. The layer that names tokens is not counted. "
        "What a sum still tells is read by a linear map fitted by least squares to the sums of all tokens and places."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.5 (positions are added)",
        "Gehring et al. 2017, Convolutional Sequence to Sequence Learning, section 3.1 (added too)",
    ),
    run=run,
)
