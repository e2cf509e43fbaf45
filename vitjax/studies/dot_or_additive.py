"""Dot-product against additive attention: operations, memory, time and accuracy as width and length grow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.attention import MultiHeadAttention, Score
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge, split
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import bars, panel
from vitjax.studies.lab.programs import Program, seconds
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, Config, Examples, trained

DOT, PLAIN, ADDITIVE = "dot", "dot, not scaled", "additive"
KINDS = (DOT, PLAIN, ADDITIVE)
NAMES = 16  # of tokens
LARGE = 64  # d_k from which scaling should matter

Shape = tuple[int, int]  # tokens, width of the one head


@dataclass(frozen=True)
class Setting:
    """Layers to time, from small to large; models to name the token before and, by width, to read digits.

    Attributes:
      rates: of learning; each model is trained with each, and the better counts.
      naming, reading: steps of training.
    """

    longer: tuple[Shape, ...] = ((64, 64), (128, 64), (256, 64), (512, 64))
    wider: tuple[Shape, ...] = ((256, 16), (256, 64), (256, 256))
    learned: tuple[Shape, ...] = ((12, 32), (12, 128), (32, 64))
    digits: tuple[int, ...] = (64,)
    rates: tuple[float, ...] = (1e-3, 5e-3)
    naming: int = 300
    reading: int = 600


FULL = Setting()
SETTINGS = {
    "reduced": Setting(((128, 64),), ((128, 16), (128, 64)), ((8, 64),), (), (5e-3,), naming=150),
    "full": FULL,
    "long": Setting(
        longer=((64, 64), (256, 64), (1024, 64)),
        wider=((256, 16), (256, 64), (256, 256), (256, 1024)),
        learned=((12, 32), (12, 64), (12, 128), (12, 256), (32, 64), (64, 64)),
        digits=(16, 64, 256),
        naming=1500,
        reading=3000,
    ),
}

OPERATIONS, MEMORY, TIME = "operations", "memory", "time"
TRAINING_MEMORY, TRAINING_TIME = "memory, training", "time, training"
COSTS = (OPERATIONS, MEMORY, TRAINING_MEMORY, TIME, TRAINING_TIME)
Costs = dict[Shape, dict[str, Spread]]  # additive attention's, for one of dot-product attention
Learned = dict[tuple[int, int, str], dict[str, Spread]]  # accuracy of each kind, by tokens, width and task


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Count and time single layers; train small models of three kinds."""
    setting = SETTINGS[size]
    costs = {shape: _cost(*shape, seeds) for shape in dict.fromkeys(setting.longer + setting.wider)}
    learned: Learned = {}
    for tokens, width in setting.learned:
        examples = sequences([before(1)], vocabulary=NAMES, length=tokens)
        found = _best(setting.rates, setting.naming, seeds, partial(_namer, tokens, width), *examples)
        learned[tokens, width, "token before"] = found
    for width in setting.digits:
        found = _best(setting.rates, setting.reading, seeds, partial(_reader, width), *digit_examples())
        learned[17, width, "digits"] = found  # patches and a class token
    rows: list[tuple[Cell, ...]] = [
        (f"{tokens} x {width}", *(cost[of] for of in COSTS), *"---")
        for (tokens, width), cost in costs.items()
    ]
    rows += [
        (f"{tokens} x {width}, {task}", *"-----", *found.values())
        for (tokens, width, task), found in learned.items()
    ]
    longest, widest, narrowest = _ends(setting, costs)
    return Result(
        Table(
            (
                "tokens x d_k",
                *(f"{of} (additive / dot)" for of in COSTS),
                *(f"accuracy, {kind} (fraction)" for kind in KINDS),
            ),
            tuple(rows),
        ),
        (
            Check(
                "alike in theoretical complexity: operations at every length and width, most",
                Spread.most(*(cost[OPERATIONS] for cost in costs.values())),
                "times those of dot-product attention",
                at_most=2.0,
                essential=True,
            ),
            Check(
                f"dot-product attention is faster ({setting.longer[-1][0]} tokens)",
                longest[TIME],
                "times its time",
                at_least=1.5,
                essential=True,
            ),
            Check("it is so in training too", longest[TRAINING_TIME], "times its time", at_least=1.5),
            Check("it takes less memory", longest[MEMORY], "times its memory", at_least=2.0, essential=True),
            Check(
                "that is a constant factor, the complexity being alike: from the narrowest to the widest head it "
                "grows by",
                widest[MEMORY] / narrowest[MEMORY],
                "times",
                at_most=2.0,
            ),
            *(check for key, found in learned.items() for check in _accuracy_checks(*key, found)),
        ),
        _finding(setting, costs, learned),
        lambda figure: _draw(figure, setting, costs, learned),
        "What additive attention takes, as a multiple of dot-product attention, in a training step of one layer, and "
        "accuracy of trained models.",
    )


def _accuracy_checks(tokens: int, width: int, task: str, found: dict[str, Spread]) -> Iterator[Check]:
    behind, ahead = 100 * (found[DOT] - found[ADDITIVE]), 100 * (found[ADDITIVE] - found[PLAIN])
    place, unit = f"at d_k = {width} ({tokens} tokens)", "percentage points"
    if task == "digits":
        yield Check("so too on digits", behind, f"{unit} over additive", at_least=-1.0)
    elif width < LARGE:
        yield Check(f"{place} they are alike, scaled or not", ahead, unit, at_most=1.0)
    else:
        yield Check(f"{place} additive is more accurate", ahead, unit, at_least=2.0)
        yield Check(f"{place} scaling makes up for that", behind, unit, at_least=-1.0)


def _finding(setting: Setting, costs: Costs, learned: Learned) -> str:
    longest, widest, narrowest = _ends(setting, costs)
    named = [found for (_, _, task), found in learned.items() if task != "digits"]
    plain = Spread.of(found[PLAIN].mean for found in named)
    others = min(found[kind].low for found in named for kind in (DOT, ADDITIVE))
    text = (
        "Both do much the same arithmetic: additive attention at most "
        f"{max(cost[OPERATIONS].high for cost in costs.values()):.2f} times the operations, a tanh counted as one. But "
        "for each pair of tokens it makes a vector of d_k numbers where the dot product makes one: at "
        f"{setting.longer[-1][0]} tokens and d_k = {setting.longer[-1][1]} it took {longest[TIME].mean:.0f} times the "
        f"time and {longest[MEMORY].mean:.0f} times the memory, in training {longest[TRAINING_TIME].mean:.0f} and "
        f"{longest[TRAINING_MEMORY].mean:.0f} times. So in memory the complexity is not alike: the factor goes with "
        f"d_k, from {narrowest[MEMORY].mean:.0f} at {setting.wider[0][1]} to {widest[MEMORY].mean:.0f} at "
        f"{setting.wider[-1][1]}. A kernel that keeps the vectors in registers could avoid that, not the tanh of each "
        f"of their numbers. Naming the token before, plain dot products come to {plain.low:.2f} to {plain.high:.2f}; "
        f"scaled ones and additive attention always to {others:.2f} or more."
    )
    for (_, _, task), found in learned.items():
        if task == "digits":
            more = 100 * (found[ADDITIVE] - found[DOT])
            text += (
                f" On digits the only head of a layer reads {found[PLAIN].mean:.3f} with plain dot products, "
                f"{found[DOT].mean:.3f} with scaled ones and {found[ADDITIVE].mean:.3f} if additive, {more.low:.1f} to "
                f"{more.high:.1f} points more than scaled; models have many heads, which is not compared here."
            )
    return text


def _draw(figure: Figure, setting: Setting, costs: Costs, learned: Learned) -> None:
    by_length, by_width, accuracy = figure.subplots(1, 3)
    for axes, shapes, which, title in (
        (by_length, setting.longer, 0, f"a layer in training, d_k = {setting.longer[0][1]}"),
        (by_width, setting.wider, 1, f"a layer in training, {setting.wider[0][0]} tokens"),
    ):
        shown = [costs[shape] for shape in shapes]
        panel(
            axes,
            [shape[which] for shape in shapes],
            {of: [cost[of] for cost in shown] for of in (OPERATIONS, TRAINING_MEMORY, TRAINING_TIME)},
            xlabel=("length (tokens)", "d_k (features of the head)")[which],
            ylabel="additive attention (times dot-product)",
            title=title,
            log="xy",
            base=2,
            legend="upper left",
            ylim=(0.9, 300),
        )
    bars(
        accuracy,
        [f"{tokens}, {width}" for tokens, width, _ in learned],
        {kind: [found[kind] for found in learned.values()] for kind in KINDS},
        xlabel="tokens, d_k (last: digits)",
        ylabel="accuracy (fraction)",
        title="trained models",
        legend="upper left",
        ylim=(0, 1.45),
    )


def _kind(base: TransformerConfig, kind: str) -> TransformerConfig:
    """The bias of additive keys would only repeat that of queries: left out, it makes room for the score's kernel."""
    changes: dict[str, dict[str, Any]] = {
        DOT: {},
        PLAIN: {"query_key_scale": 1.0},
        ADDITIVE: {"attention_score": "additive", "qkv_bias": "query_value"},
    }
    return replace(base, **changes[kind])


def _ends(setting: Setting, costs: Costs) -> tuple[dict[str, Spread], ...]:
    """Costs of the longest layer, the widest and the narrowest."""
    return costs[setting.longer[-1]], costs[setting.wider[-1]], costs[setting.wider[0]]


def _cost(tokens: int, width: int, seeds: tuple[int, ...]) -> dict[str, Spread]:
    """Of one layer of one head: `COSTS`, forward and with the backward pass."""
    dot, additive = _programs("dot", tokens, width), _programs("additive", tokens, width)
    times = seconds(dict(enumerate((*dot, *additive))), len(seeds))
    counts = [program.flops + program.transcendentals for program in (additive[0], dot[0])]
    return {
        OPERATIONS: Spread((counts[0] / counts[1],)),
        MEMORY: Spread((additive[0].memory / dot[0].memory,)),
        TRAINING_MEMORY: Spread((additive[1].memory / dot[1].memory,)),
        TIME: times[2] / times[0],
        TRAINING_TIME: times[3] / times[1],
    }


def _programs(score: Score, tokens: int, width: int) -> tuple[Program, Program]:
    """Forward pass, and forward with backward pass, of a layer."""
    definition, params, _ = split(MultiHeadAttention(width, 1, score=score, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, tokens, width)), jnp.float32)

    def forward(params: Tree, x: Float[Array, "1 T D"]) -> Float[Array, "1 T D"]:
        return merge(definition, params)(x, train=False).values

    def backward(params: Tree, x: Float[Array, "1 T D"]) -> tuple[Tree, Array]:
        return jax.grad(lambda params, x: (forward(params, x) ** 2).sum(), argnums=(0, 1))(params, x)

    return Program.of(forward, (params, x)), Program.of(backward, (params, x))


def _best(
    rates: tuple[float, ...],
    steps: int,
    seeds: tuple[int, ...],
    model: Callable[[str], Config],
    examples: Examples,
    held_out: Examples,
) -> dict[str, Spread]:
    """Accuracy of each kind at the learning rate that suits it best."""

    def accuracy(kind: str, rate: float) -> Spread:
        return trained(model(kind), examples, seeds, steps=steps, rate=rate).accuracy(held_out)

    return {
        kind: max((accuracy(kind, rate) for rate in rates), key=lambda spread: spread.mean) for kind in KINDS
    }


def _namer(tokens: int, width: int, kind: str) -> Config:
    """Names the token before."""
    encoder = TextEncoderConfig(_kind(TransformerConfig(width, 1, 1, width), kind), NAMES, tokens)
    return Build(partial(Tagger, encoder))


def _reader(width: int, kind: str) -> Config:
    """Reads digits."""
    return digit_vit(_kind(TransformerConfig(width, 2, 1, 2 * width), kind))


STUDY = Study(
    name="dot-or-additive",
    claim=(
        "Dot-product and additive attention are alike in theoretical complexity, but dot-product attention is much "
        "faster and takes less memory; without scaling, additive attention is more accurate for large d_k."
    ),
    method=(
        "Layers of one head, additive or dot-product, are compiled: operations and temporary memory are the "
        "compiler's counts; times are the shortest of five turns on one core, once for each seed. Then models with "
        "equally many parameters are trained with Adam, each with two learning rates of which the better counts: one "
        f"layer that names at each of 12 or 32 random tokens, out of {NAMES}, the one before ({FULL.naming} steps), "
        f"and a two-layer ViT that reads handwritten digits of 8 x 8 pixels ({FULL.reading} steps). d_k is the width "
        "of the model."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.1",
        "Bahdanau et al. 2015, Neural Machine Translation by Jointly Learning to Align and Translate",
        "Britz et al. 2017, Massive Exploration of Neural Machine Translation Architectures",
    ),
    run=run,
)
