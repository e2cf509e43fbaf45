"""What a Transformer layer costs against the formula, where its quadratic term takes over, and what pruning saves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from vitjax.studies.complexity_layer import (
    CHUNK,
    DEPTH,
    Layer,
    attention_memory,
    crossing,
    exponent,
    half_time,
    layers,
    ratio,
    training_memory,
)
from vitjax.studies.complexity_pruning import (
    KINDS,
    SETTINGS,
    Pruned,
    Variant,
    digit_variants,
    first,
    large_variants,
    points_lost,
)
from vitjax.studies.lab.drawing import COLORS, curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table

WIDTH = 64  # of the layer that is followed over many lengths
FEW, MANY = (32, 128), (256, 1024)  # tokens between which exponents are taken
LENGTHS: dict[Size, tuple[int, ...]] = {
    "reduced": (*FEW, *MANY),
    "full": (32, 64, 128, 256, 512, 1024),
    "long": (32, 64, 128, 256, 512, 1024, 2048, 4096),
}
PLANNED: dict[Size, tuple[int, ...]] = {
    "reduced": (256, 1024),
    "full": (128, 512, 2048),
    "long": (128, 512, 2048, 8192),
}
VIT_B, VIT_TOKENS = 768, {224: 197, 384: 577, 1024: 4097}  # patches of 16 pixels and a class token
KEPT = 5.0  # points of accuracy that may be lost where it is called kept


@dataclass(frozen=True)
class Measured:
    """Layers of width `WIDTH`, of twice that and of ViT-B/16; bytes for `planned` numbers of tokens; pruned models."""

    layers: list[Layer]
    wider: list[Layer]
    vits: list[Layer]
    planned: tuple[int, ...]
    at_once: list[int]
    in_chunks: list[int]
    training: list[int]
    recomputed: list[int]
    digits: list[Variant]
    large: list[Variant]


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """A layer, then the prunings."""
    planned, setting, repeats, small = PLANNED[size], SETTINGS[size], len(seeds), size == "reduced"
    vits = [] if small else layers([(VIT_TOKENS[pixels], VIT_B) for pixels in (224, 384)], repeats)
    trained_on = planned[-1:] if small else planned
    m = Measured(
        layers([(tokens, WIDTH) for tokens in LENGTHS[size]], repeats),
        [] if small else layers([(tokens, 2 * WIDTH) for tokens in (*FEW, *MANY)], repeats),
        vits + layers([(VIT_TOKENS[224 if small else 1024], VIT_B)], 0),
        planned,
        at_once=[attention_memory(tokens, WIDTH, chunked=False) for tokens in planned],
        in_chunks=[attention_memory(tokens, WIDTH, chunked=True) for tokens in planned],
        training=[training_memory(tokens, WIDTH, recomputed=False) for tokens in trained_on],
        recomputed=[training_memory(tokens, WIDTH, recomputed=True) for tokens in trained_on],
        digits=digit_variants(setting, seeds),
        large=large_variants(setting, repeats),
    )
    columns = ("what", "operations (M)", "of it N^2 (%)", "time (ms)", "of it N^2 (%)", "memory (MB)")
    return Result(
        Table((*columns, "accuracy (%)", "after tuning (%)"), _rows(m)),
        _checks(m, repeats),
        _finding(m),
        _drawing(m),
        "Left: share of scores, softmax and weighted sum in the formula and in the time of a layer. Middle: memory "
        "beside arguments and results. Right: accuracy of a trained digit classifier against the operations that "
        "pruning leaves.",
    )


def _checks(m: Measured, repeats: int) -> tuple[Check, ...]:
    def exact(value: float) -> Spread:
        return Spread.of([value] * repeats)

    def growth(memory: list[int]) -> Spread:
        return exact(np.log(memory[-1] / memory[-2]) / np.log(m.planned[-1] / m.planned[-2]))

    small, real = first(m.digits), first(m.large)
    kept: dict[Pruned, str] = {
        "tokens": f"merging {small['tokens'].amount} tokens a layer",
        "neurons": "taking out half of the neurons",
        "heads": "taking out half of the heads",
    }
    whole = m.large[0]
    slowest = [
        [time * whole.operations / each.operations for time in ratio(each.time, whole.time).values]
        for each in real.values()
    ]
    return (
        Check(
            "a layer's operations are twice the formula, whose terms are multiply-adds (largest ratio; XLA counts "
            "softmax, norms and GELU too)",
            exact(max(each.operations / (2 * sum(each.terms)) for each in m.layers + m.vits)),
            "times 2 (4ND^2 + 2N^2D + 2NDF)",
            at_least=1.0,
            at_most=1.2,
            essential=True,
        ),
        Check(
            "the quadratic term is as large as the rest at N = 2D + F",
            exact(crossing(m.layers) / (6 * WIDTH)),
            "times 2D + F (XLA's count)",
            at_least=0.8,
            at_most=1.25,
            essential=True,
        ),
        Check(
            f"the time of scores, softmax and weighted sum grows with N^2 (from N = {MANY[0]} to {MANY[1]})",
            exponent(m.layers, MANY, quadratic_part=True),
            "exponent",
            at_least=1.5,
            essential=True,
        ),
        Check(
            f"so does that of the whole layer, with few tokens too (from N = {FEW[0]} to {FEW[1]})",
            exponent(m.layers, FEW),
            "exponent",
            at_least=1.7,
        ),
        Check(
            "the quadratic term is most of a layer of ViT-B/16 at 224 pixels",
            exact(m.vits[0].quadratic_share),
            "of the formula",
            at_least=0.5,
        ),
        Check(
            "attention's memory grows with the square of the tokens",
            growth(m.at_once),
            "exponent",
            at_least=1.8,
            essential=True,
        ),
        Check(
            f"it must: also if attention is computed for {CHUNK} queries at a time",
            growth(m.in_chunks),
            "exponent",
            at_least=1.8,
        ),
        Check(
            f"recomputing layers saves memory in training ({DEPTH} layers, N = {m.planned[-1]:,})",
            exact(m.recomputed[-1] / m.training[-1]),
            "of the memory",
            at_most=0.6,
        ),
        Check(
            "without half of its heads a Transformer costs half",
            exact(real["heads"].operations / m.large[0].operations),
            "of the operations",
            at_most=0.6,
        ),
        Check(
            "pruned models are faster as they have fewer operations (least favourable of the three prunings)",
            Spread.of(map(max, zip(*slowest, strict=True))),
            "of the time, for each of the operations",
            at_most=2.0,
        ),
        *(
            Check(
                f"{what} keeps the accuracy",
                points_lost(m.digits[0], small[kind].accuracy),
                "points lost",
                at_most=KEPT,
            )
            for kind, what in kept.items()
        ),
    )


def _rows(m: Measured) -> tuple[tuple[Cell, ...], ...]:
    named = {
        f"layer, D = {WIDTH}, N = {each.tokens}": each for each in m.layers if each.tokens in (FEW[1], *MANY)
    }
    named |= {f"layer of ViT-B/16 at {_pixels(each)}": each for each in m.vits}
    rows: list[tuple[Cell, ...]] = [
        (
            label,
            2 * sum(each.terms) / 1e6,
            100 * each.quadratic_share,
            _times(1000, each.time),
            _times(100, each.quadratic_time_share if each.time else None),
            each.memory / 1e6,
            "-",
            "-",
        )
        for label, each in named.items()
    ]
    rows += [
        (
            f"{model}, {each.description}",
            each.operations / 1e6,
            "-",
            _times(1000, each.time),
            "-",
            each.memory / 1e6,
            _times(100, each.accuracy),
            _times(100, each.tuned),
        )
        for model, variants in (("digits ViT", m.digits), ("larger ViT", m.large))
        for each in (variants[0], *first(variants).values())
    ]
    return tuple(rows)


def _drawing(m: Measured) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        shares, memory, pruning = figure.subplots(1, 3)
        lengths = [each.tokens for each in m.layers]
        shares.plot(
            lengths,
            [100 * each.quadratic_share for each in m.layers],
            color=COLORS[0],
            label="of the formula",
        )
        in_time = [_in_percent(each.quadratic_time_share) for each in m.layers]
        curve(shares, lengths, in_time, "of the time", 1)
        shares.axvline(6 * WIDTH, color="#888888", ls=":", lw=1, label="N = 2D + F")
        shares.set(xlabel=f"tokens N (D = {WIDTH})", ylabel="share of the quadratic part (%)", ylim=(0, 100))
        shares.set(title="one layer", xscale="log")
        shares.set_xticks(lengths[::2], map(str, lengths[::2]), minor=False)
        for place, (label, values) in enumerate(
            {
                f"gradient, {DEPTH} layers": m.training,
                "the same, recomputed": m.recomputed,
                "attention": m.at_once,
                f"{CHUNK} queries at a time": m.in_chunks,
            }.items()
        ):
            megabytes = [Spread((value / 1e6,)) for value in values]
            curve(memory, m.planned[-len(values) :], megabytes, label, place)
        memory.set(
            xlabel=f"tokens N (D = {WIDTH})", ylabel="memory (MB)", title="memory", xscale="log", yscale="log"
        )
        memory.set_xticks(m.planned, map(str, m.planned))
        memory.set_ylim(top=memory.get_ylim()[1] * 30)
        whole = m.digits[0]
        for place, kind in enumerate(KINDS):
            forms = [whole, *sorted((v for v in m.digits if v.kind == kind), key=lambda v: -v.operations)]
            left = [100 * form.operations / whole.operations for form in forms]
            accuracy = [_in_percent(form.accuracy) for form in forms if form.accuracy]
            curve(pruning, left, accuracy, f"fewer {kind}", place)
        pruning.set(xlabel="operations left (%)", ylabel="held-out digits right (%)", title="as pruned")
        for axes in (shares, memory, pruning):
            axes.minorticks_off()
            axes.legend()

    return draw


def _finding(m: Measured) -> str:
    small, real = first(m.digits), first(m.large)
    few, many = exponent(m.layers, FEW), exponent(m.layers, MANY)
    shares = ", ".join(f"{each.quadratic_share:.0%} at {_pixels(each)} pixels" for each in m.vits)
    in_time = ", ".join(
        f"{each.quadratic_time_share.mean:.0%} at {_pixels(each)}" for each in m.vits if each.time
    )
    costs = "; ".join(
        f"{real[kind].operations / m.large[0].operations:.0%} of the operations and "
        f"{ratio(real[kind].time, m.large[0].time).mean:.0%} of the time with {real[kind].description}"
        for kind in KINDS
    )
    tuned = ", ".join(
        f"{points_lost(m.digits[0], each.tuned).mean:.1f}" for each in small.values() if each.tuned
    )
    losses = ", ".join(
        f"{points_lost(m.digits[0], small[kind].accuracy).mean:.1f} points for {kind}" for kind in KINDS
    )
    feed_forward = m.vits[0].terms[2] / sum(m.vits[0].terms)
    measured = [each for each in (m.layers, m.wider) if each]
    halves = " and ".join(f"{half_time(each):,.0f} (D = {each[0].width})" for each in measured)
    return (
        "The formula is right, if one knows that it counts multiply-adds: floating-point operations are twice as "
        "many. What people conclude from it is not: the quadratic term is as large as the rest only at N = 2D + F, "
        f"{6 * VIT_B:,} tokens for the width of ViT-B/16. In that model it is {shares}"
        f"{in_time and f' (of the measured time {in_time})'}, and at 224 pixels the feed-forward network alone is "
        f"{feed_forward:.0%}. So time is not quadratic with few tokens (exponent {few.mean:.1f} from {FEW[0]} to "
        f"{FEW[1]}) and becomes so with many ({many.mean:.1f} from {MANY[0]} to {MANY[1]}); half of it is quadratic "
        f"at about N = {halves}. Memory is quadratic only because the weights [H, N, N] are written down: the same "
        f"attention for {CHUNK} queries at a time needs {m.in_chunks[-1] / m.at_once[-1]:.1%} of it at N = "
        f"{m.planned[-1]:,} and grows linearly, as in fused kernels; and in training, recomputing {DEPTH} layers "
        f"leaves {m.recomputed[-1] / m.training[-1]:.0%}. Pruning saves what its term is of the sum, not the share "
        f"that is taken out. What is left of the larger ViT: {costs}. A small ViT that names digits loses {losses}, "
        "pruned as in the table"
        f"{tuned and f'; after a little more training {tuned}'}. It has few heads and needs them, which does not "
        "contradict that many of the 16 heads of a large model can go (Michel et al.)."
    )


def _in_percent(share: Spread) -> Spread:
    return Spread.of(100 * value for value in share.values)


def _times(factor: int, spread: Spread | None) -> Cell:
    return "-" if spread is None else Spread.of(factor * value for value in spread.values)


def _pixels(layer: Layer) -> int:
    return next(pixels for pixels, tokens in VIT_TOKENS.items() if tokens == layer.tokens)


STUDY = Study(
    name="complexity",
    claim=(
        "A Transformer layer costs 4ND^2 + 2N^2D + 2NDF: time and memory are quadratic in the number of tokens N, so "
        "attention is what a Transformer spends them on. Pruning tokens, heads or feed-forward neurons takes away its "
        "share of the cost and little of the accuracy."
    ),
    method=(
        f"One encoder layer of width D = {WIDTH} with F = 4D on N tokens, forward: operations by XLA's count of "
        "the compiled program, memory by its plan (beside arguments and results), time by the shortest of several "
        "turns, which all programs take in rotation. Scores, softmax and weighted sum, the quadratic part, are timed "
        "alone too. Then a ViT of 4 layers, width 48 and 6 heads learns to name real handwritten digits (800 steps). "
        "The least important heads or neurons, by the gradient of a gate on each, are taken out, or the most similar "
        "of the 16 patches merged in each layer. What the same prunings cost is also measured on a larger ViT, S/16 at "
        "224 pixels, with random numbers."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 4",
        "Rabe and Staats 2021, Self-attention Does Not Need O(n^2) Memory",
        "Bolya et al. 2023, Token Merging: Your ViT But Faster",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
        "Voita et al. 2019, Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can "
        "Be Pruned",
    ),
    run=run,
)
