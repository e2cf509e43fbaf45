"""What a Transformer layer costs against the formula, where its quadratic term takes over, and what pruning saves."""

from matplotlib.figure import Figure

from vitjax.studies.complexity_layer import (
    CHUNK,
    DEPTH,
    attention_memory,
    counted,
    crossing,
    exponent,
    slope,
    timed,
    training_memory,
)
from vitjax.studies.complexity_pruning import (
    KINDS,
    SETTINGS,
    digit_variants,
    first,
    large_variants,
    least_favourable,
    points_lost,
)
from vitjax.studies.complexity_report import (
    FEW,
    MANY,
    VIT_B,
    VIT_TOKENS,
    WIDTH,
    Measured,
    Memory,
    finding,
    percent,
    rows,
)
from vitjax.studies.drawing import COLORS, curve
from vitjax.studies.study import Check, Result, Size, Spread, Study, Table

LENGTHS: dict[Size, tuple[int, ...]] = {
    "reduced": (32, 128, 512, 1024),
    "full": (32, 64, 128, 256, 512, 1024),
    "long": (32, 64, 128, 256, 512, 1024, 2048, 4096),
}
PLANNED: dict[Size, tuple[int, ...]] = {
    "reduced": (256, 1024),
    "full": (128, 512, 2048),
    "long": (128, 512, 2048, 4096),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """A layer, then the prunings."""
    lengths, planned, setting = LENGTHS[size], PLANNED[size], SETTINGS[size]
    layers = timed([(tokens, WIDTH) for tokens in lengths], len(seeds))
    if size == "reduced":
        wider, vits, trained_on = [], [counted(VIT_TOKENS[224], VIT_B)], planned[-1:]
    else:
        wider = timed([(tokens, 2 * WIDTH) for tokens in (*FEW, *MANY)], len(seeds))
        vits = timed([(VIT_TOKENS[pixels], VIT_B) for pixels in (224, 384)], len(seeds))
        vits, trained_on = [*vits, counted(VIT_TOKENS[1024], VIT_B)], planned
    memory = Memory(
        *([attention_memory(n, WIDTH, chunked=chunked) for n in planned] for chunked in (False, True)),
        *([training_memory(n, WIDTH, recomputed=again) for n in trained_on] for again in (False, True)),
    )
    digits, large = digit_variants(setting, seeds), large_variants(setting, len(seeds))
    m = Measured(layers, wider, vits, planned, memory, digits, large)

    def draw(figure: Figure) -> None:
        shares, bytes_, pruning = figure.subplots(1, 3)
        shares.plot(
            lengths, [100 * each.quadratic_share for each in layers], color=COLORS[0], label="of the formula"
        )
        curve(shares, lengths, [percent(each.quadratic_time_share) for each in layers], "of the time", 1)
        shares.axvline(6 * WIDTH, color="#888888", ls=":", lw=1)
        shares.set(
            xlabel=f"tokens N (D = {WIDTH}; dotted: N = 2D + F)",
            ylabel="share of the quadratic part (%)",
            xscale="log",
            ylim=(0, 100),
            title="one layer",
        )
        for place, (label, values) in enumerate(
            {
                f"gradient, {DEPTH} layers": memory.training,
                "the same, recomputed": memory.recomputed,
                "attention": memory.at_once,
                f"the same, {CHUNK} queries at a time": memory.in_chunks,
            }.items()
        ):
            curve(
                bytes_, planned[-len(values) :], [Spread.of([value / 1e6]) for value in values], label, place
            )
        bytes_.set(
            xlabel=f"tokens N (D = {WIDTH})", ylabel="memory (MB)", xscale="log", yscale="log", title="memory"
        )
        whole = digits[0]
        for place, kind in enumerate(KINDS):
            forms = [whole, *sorted((v for v in digits if v.kind == kind), key=lambda v: -v.operations)]
            curve(
                pruning,
                [100 * form.operations / whole.operations for form in forms],
                [percent(form.accuracy) for form in forms if form.accuracy],
                f"fewer {kind}",
                place,
            )
        pruning.set(
            xlabel="operations left (%)",
            ylabel="held-out digits right (%)",
            title="pruned, not trained further",
        )
        for axes in (shares, bytes_, pruning):
            axes.legend()

    return Result(
        Table(
            (
                "what",
                "operations (M)",
                "of it N^2 (%)",
                "time (ms)",
                "of it N^2 (%)",
                "memory (MB)",
                "accuracy (%)",
                "after tuning (%)",
            ),
            rows(m),
        ),
        _checks(m, len(seeds)),
        finding(m),
        draw,
        "Left: share of scores, softmax and weighted sum in the formula and in the time of a layer. Middle: memory "
        "beside arguments and results. Right: accuracy of a trained digit classifier against the operations that "
        "pruning leaves.",
    )


def _checks(m: Measured, repeats: int) -> tuple[Check, ...]:
    def exact(value: float) -> Spread:
        return Spread((value,) * repeats)

    counts = [each.operations / (2 * each.formula) for each in m.layers + m.vits]
    small, real = first(m.digits), first(m.large)
    return (
        Check(
            "a layer's operations are twice the formula, whose terms are multiply-adds (largest ratio; XLA counts "
            "softmax, norms and GELU too)",
            exact(max(counts)),
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
            f"with many tokens time grows with their square (exponent from N = {MANY[0]} to {MANY[1]}, D = {WIDTH})",
            exponent(m.layers, MANY),
            "exponent",
            at_least=1.4,
            essential=True,
        ),
        Check(
            f"it does so with few (exponent from N = {FEW[0]} to {FEW[1]})",
            exponent(m.layers, FEW),
            "exponent",
            at_least=1.7,
        ),
        Check(
            "the quadratic part is most of a layer of ViT-B/16 at 224 pixels",
            exact(m.vits[0].quadratic_share),
            "of the formula",
            at_least=0.5,
        ),
        Check(
            f"attention's memory grows with the square (exponent from N = {m.planned[-2]} to {m.planned[-1]})",
            exact(slope(m.memory.at_once, m.planned)),
            "exponent",
            at_least=1.8,
            essential=True,
        ),
        Check(
            f"it must: also if it is computed for {CHUNK} queries at a time",
            exact(slope(m.memory.in_chunks, m.planned)),
            "exponent",
            at_least=1.8,
        ),
        Check(
            f"recomputing layers saves memory in training ({DEPTH} layers, N = {m.planned[-1]})",
            exact(m.memory.recomputed[-1] / m.memory.training[-1]),
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
            "pruned models are as much faster as they have fewer operations (least favourable of the three prunings)",
            least_favourable(m.large[0], real.values()),
            "of the time, for each of the operations",
            at_most=2.0,
        ),
        Check(
            f"merging {small['tokens'].amount} tokens a layer keeps the accuracy, untrained for it",
            points_lost(m.digits[0], small["tokens"].accuracy),
            "points lost",
            at_most=5.0,
        ),
        Check(
            "so does taking out half of the neurons",
            points_lost(m.digits[0], small["neurons"].accuracy),
            "points lost",
            at_most=5.0,
        ),
        Check(
            "so does taking out half of the heads",
            points_lost(m.digits[0], small["heads"].accuracy),
            "points lost",
            at_most=5.0,
        ),
    )


STUDY = Study(
    name="complexity",
    claim=(
        "A Transformer layer costs 4ND^2 + 2N^2D + 2NDF: time and memory are quadratic in the number of tokens N, so "
        "attention is what a Transformer spends them on. Pruning tokens, heads or feed-forward neurons takes away its "
        "share of the cost and little of the accuracy."
    ),
    method=(
        f"One encoder layer of width D = {WIDTH} with F = 4D on N tokens, forward: operations by XLA's count of "
        "the compiled program, memory by its plan (beside arguments and results), time by medians of programs that "
        "take turns. Scores, softmax and weighted sum, the quadratic part, are timed alone too. Then a ViT of 4 "
        "layers, width 48 and 6 heads learns to name real handwritten digits (800 steps). The least important heads "
        "or neurons, by the gradient of a gate on each, are taken out, or the most similar of the 16 patches merged "
        "in each layer. What the same prunings cost is measured on ViT-S/16 at 224 pixels with random numbers."
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
