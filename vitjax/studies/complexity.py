"""What a Transformer layer costs against the formula, where its quadratic term takes over, and what pruning saves."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.analysis.pruning import importance, keep_heads, keep_neurons, strongest
from vitjax.nn.attention import dot_product_attention
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import bars, panel
from vitjax.studies.lab.programs import Program, seconds
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Config, definition_of, trained, unstacked

WIDTH, HEAD_WIDTH = 64, 64  # features D of the layer followed over its length, and of a head; F = 4D
FEW, MANY = (24, 96), (384, 1536)  # tokens between which exponents are taken
VIT_B = 197, 768  # N and D of ViT-B/16 at 224 pixels
TURN, CHUNK = 6 * WIDTH, 24  # tokens: 2D + F; queries at a time
NUM_HEADS, FEED_FORWARD = 6, 192  # of each layer of the digit reader
MERGED, JUDGED = 4, 256  # patches merged in each layer; training digits that tell importance
NOTHING, *PRUNED = "nothing", "tokens", "heads", "neurons"

# tokens of the layer followed; layers of the digit reader, steps of its training
LENGTHS = 24, 48, 96, 192, 384, 768, 1536
EFFORTS: dict[Size, tuple[tuple[int, ...], int, int]] = {
    "reduced": ((*FEW, *MANY), 1, 60),
    "full": (LENGTHS, 4, 800),
    "long": ((*LENGTHS, 3072, 6144), 4, 3000),
}


class Cost(NamedTuple):
    """Of a program: 10^6 operations, MB beside arguments and results, ms; or how many times those of another."""

    operations: Spread
    memory: Spread
    time: Spread

    def over(self, other: "Cost") -> "Cost":
        """How many times the costs of another."""
        return Cost(*(mine / its for mine, its in zip(self, other, strict=True)))


class Layer(NamedTuple):
    """A layer; its attention (scores, softmax, weighted sum) alone; the same for `CHUNK` queries at a time."""

    whole: Cost
    attention: Cost
    chunked: Cost

    @property
    def share(self) -> Cost:
        """Of attention, the quadratic part, in the whole."""
        return self.attention.over(self.whole)


class Reader(NamedTuple):
    """What it costs to read all held-out digits, `left` in times of the whole reader; right ones (%), points lost."""

    cost: Cost
    left: Cost
    right: Spread
    lost: Spread


Layers = dict[tuple[int, int], Layer]  # by N and D
Readers = dict[str, Reader]  # by what is pruned


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """A layer at many lengths and one of ViT-B/16, then the prunings of a digit reader."""
    lengths, depth, steps = EFFORTS[size]
    layers = _layers([*((tokens, WIDTH) for tokens in lengths), VIT_B], len(seeds))
    readers = _readers(depth, steps, seeds)
    columns = "what", "operations (M)", "memory (MB)", "time (ms)", "N^2 in operations (%)", "N^2 in time (%)"
    rows: list[tuple[Cell, ...]] = [
        (f"layer, N = {n}, D = {d}", *each.whole, 100 * each.share.operations, 100 * each.share.time, "-")
        for (n, d), each in layers.items()
    ]
    rows += [
        (f"digit reader, pruned: {name}", *each.cost, "-", "-", each.right) for name, each in readers.items()
    ]
    return Result(
        Table((*columns, "right (%)"), tuple(rows)),
        _checks(layers, readers),
        _finding(layers, readers),
        lambda figure: _draw(figure, lengths, layers, readers),
        f"Left: share of scores, softmax and weighted sum in the formula, N / (2D + F + N), and the time; D = {WIDTH}. "
        "Middle: memory beside arguments and results. Right: costs and right answers that are left after pruning.",
    )


def _layers(sizes: list[tuple[int, int]], repeats: int) -> Layers:
    programs = {(size, part): program for size in sizes for part, program in _parts(*size).items()}
    costs = _costs(programs, repeats)
    return {size: Layer(*(costs[size, part] for part in Layer._fields)) for size in sizes}


def _parts(tokens: int, width: int) -> dict[str, Program]:
    """By the names they have in `Layer`."""
    config = TransformerConfig(width, 1, width // HEAD_WIDTH, 4 * width)
    definition, shapes, _ = abstract(lambda rngs: EncoderBlock(config, rngs=rngs))
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), shapes)  # any: the cost is the same
    x = jnp.full((1, tokens, width), 0.01)
    query = x.reshape(1, tokens, -1, HEAD_WIDTH)

    def chunked(query: Float[Array, "1 N H C"]) -> Float[Array, "N 1 1 H C"]:
        queries = jnp.moveaxis(query, 1, 0)[:, None]
        return jax.lax.map(lambda one: dot_product_attention(one, query, query), queries, batch_size=CHUNK)

    return {
        "whole": _evaluated(definition, (params, x)),
        "attention": Program.of(lambda query: dot_product_attention(query, query, query), (query,)),
        "chunked": Program.of(chunked, (query,)),
    }


def _readers(depth: int, steps: int, seeds: tuple[int, ...]) -> Readers:
    """A model trained on real digits with each seed, then what is left of it."""
    learned, held_out = digit_examples()
    config = digit_vit(TransformerConfig(48, depth, NUM_HEADS, FEED_FORWARD, unroll=True))  # for XLA's count
    whole = trained(config, learned, seeds, steps=steps, rate=3e-3)

    def loss(params: Tree, example: tuple[Array, Array]) -> Array:
        logits = merge(whole.definition, params)(example[0][None], train=False)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, example[1])

    judged = learned.inputs[:JUDGED], learned.answers[:JUDGED]
    scores = jax.jit(lambda params: importance(params, loss, judged, batch_size=32))

    def pruned(params: Tree) -> dict[str, tuple[Config, Tree]]:
        heads, neurons = scores(params)
        return {
            NOTHING: (config, params),
            "tokens": (replace(config, merged_tokens=MERGED), params),
            "heads": keep_heads(config, params, strongest(heads["attention"], NUM_HEADS // 2)),
            "neurons": keep_neurons(config, params, strongest(neurons, FEED_FORWARD // 2)),
        }

    models = [pruned(params) for params in jax.device_put(unstacked(whole.params))]
    images = jnp.asarray(held_out.inputs)
    programs = {
        name: _evaluated(definition_of(smaller), *((each[name][1], images) for each in models))
        for name, (smaller, _) in models[0].items()
    }
    costs = _costs(programs, len(seeds))
    right = {
        name: Spread.of(100 * np.mean(program(i).argmax(-1) == held_out.answers) for i in range(len(seeds)))
        for name, program in programs.items()
    }
    return {
        name: Reader(cost, cost.over(costs[NOTHING]), right[name], right[NOTHING] - right[name])
        for name, cost in costs.items()
    }


def _evaluated(definition: nnx.GraphDef, *arguments: tuple[Tree, Array]) -> Program:
    """What a module makes of its input in evaluation mode, with the parameters of each seed."""
    return Program.of(lambda params, x: merge(definition, params)(x, train=False), *arguments)


def _costs(programs: dict[Any, Program], repeats: int) -> dict[Any, Cost]:
    times = seconds(programs, repeats, rounds=3)
    return {
        key: Cost(Spread((each.flops / 1e6,)), Spread((each.memory / 1e6,)), 1000 * times[key])
        for key, each in programs.items()
    }


def _growth(layers: Layers, tokens: tuple[int, int]) -> Layer:
    """Exponents by which costs grow from one number of tokens to another: 2 is with their square."""
    few, many = (layers[count, WIDTH] for count in tokens)

    def exponent(ratio: Spread) -> Spread:
        return Spread.of(np.log(ratio.values) / np.log(tokens[1] / tokens[0]))

    return Layer(*(Cost(*map(exponent, more.over(less))) for less, more in zip(few, many, strict=True)))


def _checks(layers: Layers, readers: Readers) -> tuple[Check, ...]:
    formula = {(n, d): 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * 4 * d for n, d in layers}
    ratios = [each.whole.operations / (2 * formula[size] / 1e6) for size, each in layers.items()]
    vit, heads = layers[VIT_B].share.operations, readers["heads"].left.operations
    few, many = _growth(layers, FEW), _growth(layers, MANY)
    return (
        Check(
            "a layer's operations are twice the formula, whose terms are multiply-adds (largest ratio)",
            Spread.most(*ratios),
            "times 2 (4ND^2 + 2N^2D + 2NDF)",
            at_least=1.0,
            at_most=1.2,
            essential=True,
        ),
        Check(
            "its quadratic part, attention, is half of it at N = 2D + F",
            layers[TURN, WIDTH].share.operations,
            "of its operations",
            at_least=0.45,
            at_most=0.55,
            essential=True,
        ),
        Check("attention is most of ViT-B/16 at 224 pixels", vit, "of a layer's operations", at_least=0.5),
        Check("attention's time grows as N^2", many.attention.time, "exponent", at_least=1.5, essential=True),
        Check("so does a layer's, with few tokens too", few.whole.time, "exponent", at_least=1.7),
        Check("its memory grows as N^2", many.attention.memory, "exponent", at_least=1.8, essential=True),
        Check(f"it must: also for {CHUNK} queries at a time", many.chunked.memory, "exponent", at_least=1.8),
        Check("without half of its heads a Transformer costs half", heads, "of the operations", at_most=0.6),
        *(
            Check(f"pruning {name} keeps the accuracy", readers[name].lost, "points lost", at_most=5.0)
            for name in PRUNED
        ),
    )


def _draw(figure: Figure, lengths: tuple[int, ...], layers: Layers, readers: Readers) -> None:
    share, memory, pruning = figure.subplots(1, 3)
    followed = [layers[tokens, WIDTH] for tokens in lengths]
    share.axvline(TURN, color="#888888", ls=":", lw=1, label="N = 2D + F")
    quadratic = {
        "of the formula": [Spread((100 * n / (TURN + n),)) for n in lengths],
        "of the time": [100 * each.share.time for each in followed],
    }
    panel(share, lengths, quadratic, xlabel="tokens N", ylabel="quadratic part (%)", title="a layer", log="x")
    parts = {
        "whole layer": [each.whole.memory for each in followed],
        "attention": [each.attention.memory for each in followed],
        f"{CHUNK} queries at a time": [each.chunked.memory for each in followed],
    }
    panel(memory, lengths, parts, xlabel="tokens N", ylabel="memory (MB)", title="its memory", log="xy")
    for axes in (share, memory):
        axes.set_xticks(lengths[::2], map(str, lengths[::2]))
    pruned = [readers[name] for name in PRUNED]
    heights = {
        "operations": [100 * each.left.operations for each in pruned],
        "time": [100 * each.left.time for each in pruned],
        "right answers": [100 * each.right / readers[NOTHING].right for each in pruned],
    }
    bars(pruning, PRUNED, heights, xlabel="pruned", ylabel="of the whole (%)", title="pruning", ylim=(0, 140))


def _finding(layers: Layers, readers: Readers) -> str:
    turn, vit, longest = (layers[size] for size in ((TURN, WIDTH), VIT_B, (MANY[1], WIDTH)))
    few, many = (_growth(layers, tokens).whole.time.mean for tokens in (FEW, MANY))
    chunked = longest.chunked.over(longest.attention)
    pruned = "; ".join(
        f"with fewer {name} {each.left.operations.mean:.0%} of the operations and {each.left.time.mean:.0%} of the "
        f"time, for {each.lost.mean:.1f} points of accuracy"
        for name, each in readers.items()
        if name in PRUNED
    )
    return (
        "The formula is right, if one knows that it counts multiply-adds: floating-point operations are twice as many. "
        f"But the quadratic term is as large as the rest only at N = 2D + F, {6 * VIT_B[1]:,} tokens for ViT-B/16; at "
        f"224 pixels it is {vit.share.operations.mean:.0%} of a layer ({vit.share.time.mean:.0%} of its time). The "
        f"time at width {WIDTH} grows with the power {few:.1f} of N from {FEW[0]} to {FEW[1]} tokens and {many:.1f} "
        f"from {MANY[0]} to {MANY[1]:,}; at N = 2D + F {turn.share.time.mean:.0%} of it is attention. Memory is "
        f"quadratic only because the weights [H, N, N] are written down: for {CHUNK} queries at a time attention needs "
        f"{chunked.memory.mean:.1%} of it at N = {MANY[1]:,}, in {chunked.time.mean:.1f} times the time, and grows "
        "linearly, as in fused kernels. Pruning saves what its term is of the sum, not the share that is taken out. "
        f"Of the digit reader is left: {pruned}. It has few heads and needs them, which does not contradict that many "
        "of the 16 of a large model can go."
    )


STUDY = Study(
    name="complexity",
    claim=(
        "A Transformer layer costs 4ND^2 + 2N^2D + 2NDF: time and memory are quadratic in the number of tokens N, so "
        "attention is what a Transformer spends them on. Pruning tokens, heads or feed-forward neurons takes away its "
        "share of the cost and little of the accuracy."
    ),
    method=(
        f"An encoder layer of width D = {WIDTH} with F = 4D on N tokens, and one of ViT-B/16 at 224 pixels "
        f"(N = {VIT_B[0]}, D = {VIT_B[1]}), forward, on one core: operations by XLA's count (softmax, norms and GELU "
        "too), memory by the plan of the compiled program (beside arguments and results), time as the shortest of "
        f"several turns. Exponents are from N = {MANY[0]} to {MANY[1]}, with few tokens from {FEW[0]} to {FEW[1]}. "
        f"Then a ViT of 4 layers, width 48 and {NUM_HEADS} heads learns to name real handwritten digits. The less "
        "important half of the heads or neurons, by the gradient of a gate on each, is taken out, or the "
        f"{MERGED} most similar of 16 patches merged in each layer; nothing is trained afterwards."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 4",
        "Rabe and Staats 2021, Self-attention Does Not Need O(n^2) Memory",
        "Bolya et al. 2023, Token Merging: Your ViT But Faster",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
    ),
    run=run,
)
