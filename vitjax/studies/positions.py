"""Positions of five kinds: order without any, accuracy by training-set size, longer sequences, larger images."""

from collections.abc import Callable
from typing import get_args

from matplotlib.figure import Figure

from vitjax.nn.embeddings import PositionKind
from vitjax.studies.lab.drawing import COLORS, curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.positions_learning import LENGTHS, PLACES, OfImages, of_images, of_sequences
from vitjax.studies.positions_order import of_decoder, of_encoder

TOKENS = {"reduced": 8, "full": 64, "long": 512}  # to shuffle
COUNTS = {"reduced": (1437,), "full": (100, 400, 1437), "long": (50, 100, 200, 400, 800, 1437)}
STEPS = {"reduced": 100, "full": 600, "long": 4000}
SIZES = (12, 16)  # pixels a side of images larger than the 8 of training
ROUNDING = 1e-5  # what sums in another order may differ by in float32, in deviations of the output

Images = dict[PositionKind, OfImages]
Tags = dict[PositionKind, dict[int, Spread]]


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Shuffle tokens; train models with each kind of positions, and show them more tokens than they were trained on.

    Reduced: one kind against none where tokens are shuffled, and training without positions on images of one size.
    """
    reduced, counts = size == "reduced", COUNTS[size]
    kinds: tuple[PositionKind, ...] = ("none", "rotary") if reduced else get_args(PositionKind)
    order = {kind: of_encoder(kind, TOKENS[size], seeds) for kind in kinds}
    causal = {depth: of_decoder(depth, TOKENS[size], seeds) for depth in (1, 2)}
    trained, sizes = (kinds[:1], ()) if reduced else (kinds, SIZES)
    images: Images = {kind: of_images(kind, counts, sizes, seeds, steps=STEPS[size]) for kind in trained}
    tags: Tags = {} if reduced else {kind: of_sequences(kind, seeds, steps=STEPS[size]) for kind in kinds}

    def row(what: str, cells: dict) -> tuple[Cell, ...]:
        return (what, *(cells.get(kind, "not run") for kind in kinds))

    rows = [row("difference that order makes (deviations)", order)]
    for count in counts:
        cells = {kind: found.by_count[count] for kind, found in images.items()}
        rows.append(row(f"accuracy, {count:,} digits to learn from (fraction)", cells))
    for pixels in sizes:
        shown = f"{pixels} x {pixels} pixels (fraction)"
        for how in ("on_canvas", "enlarged"):
            cells = {kind: getattr(found, how)[pixels] for kind, found in images.items()}
            rows.append(row(f"accuracy, {how.replace('_', ' ')}, {shown}", cells))
    for length in LENGTHS if tags else ():
        cells = {kind: found[length] for kind, found in tags.items()}
        rows.append(row(f"accuracy, {PLACES} places back, {length} tokens (fraction)", cells))

    blind = images["none"].by_count[counts[-1]]
    checks = (
        Check(
            "without positions, shuffling an encoder's tokens only shuffles its output",
            order["none"],
            "deviations",
            at_most=ROUNDING,
            essential=True,
        ),
        Check(
            "with any kind of positions it changes the output (least of all kinds)",
            _each(min, *(spread for kind, spread in order.items() if kind != "none")),
            "deviations",
            at_least=100 * ROUNDING,
            essential=True,
        ),
        Check(
            "a causal decoder of one layer without positions does not see the order of the tokens before",
            causal[1],
            "deviations",
            at_most=ROUNDING,
        ),
        Check("nor does one of two layers", causal[2], "deviations", at_most=ROUNDING),
        Check(
            "without positions a ViT cannot read digits",
            blind,
            "of those held out (0.1 is guessing)",
            at_most=0.2,
        ),
        *(() if reduced else _compared(images, tags)),
    )

    def draw(figure: Figure) -> None:
        by_count, by_length, larger = figure.subplots(1, 3)
        for place, (kind, found) in enumerate(images.items()):
            curve(by_count, counts, list(found.by_count.values()), kind, place)
            shown = {"8 x 8 (trained)": found.by_count[counts[-1]]}
            for pixels in sizes[:1]:
                shown[f"{pixels} x {pixels}, margin"] = found.on_canvas[pixels]
                shown[f"{pixels} x {pixels}, enlarged"] = found.enlarged[pixels]
            for number, (name, spread) in enumerate(shown.items()):
                at, color = place + 0.2 * (number - 1), COLORS[number]
                larger.vlines(at, spread.low, spread.high, color="#888888", lw=3)
                larger.plot(at, spread.mean, "os^"[number], color=color, ms=4, label=None if place else name)
        for place, (kind, by_tokens) in enumerate(tags.items()):
            curve(by_length, LENGTHS, list(by_tokens.values()), kind, place)
        by_count.set(xscale="log", xlabel="digits to learn from", title="held-out digits")
        by_length.set(xscale="log", xlabel="tokens of a sequence", title=f"token {PLACES} places back")
        by_length.axvline(LENGTHS[0], color="#888888", lw=1)
        by_length.text(LENGTHS[0], 1.03, " trained", color="#888888", fontsize=8)
        larger.set_xticks(range(len(images)), list(images), rotation=30)
        larger.set(xlabel="positions", title="larger images than trained")
        for axes, ticks in ((by_count, counts), (by_length, LENGTHS)):
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
            axes.minorticks_off()
        for axes in (by_count, by_length, larger):
            axes.set(ylabel="accuracy (fraction)", ylim=(0, 1.1))
        larger.set(ylim=(0, 1.5), yticks=by_count.get_yticks()[:6])
        by_count.legend(loc="lower right")
        larger.legend(loc="upper right")

    return Result(
        Table(("what", *kinds), tuple(rows)),
        checks,
        "Without positions an encoder cannot tell one order of its tokens from another: shuffled tokens give the "
        f"same vectors, shuffled, up to rounding ({order['none'].high:.0e} deviations). A causal decoder can from its "
        "second layer on, for its mask tells each token how many stand before it: shuffling the past changes what the "
        f"last token says by {causal[2].mean:.1g} deviations with two layers, and by nothing with one. A ViT without "
        f"positions still reads {blind.mean:.0%} of held-out digits, for it knows each pixel's place within a patch"
        + ("." if reduced else _compared_in_words(images, tags)),
        draw,
        "Accuracy by training-set size; by length, of models trained on the shortest; and on larger images than "
        f"trained: digits on a canvas, or enlarged, both {SIZES[0]} pixels a side. Below all: guessing has "
        "0.1 for digits and 0.06 for tokens.",
    )


def _each(of: Callable[[tuple[float, ...]], float], *spreads: Spread) -> Spread:
    """A function of several quantities, seed by seed."""
    return Spread.of(map(of, zip(*(spread.values for spread in spreads), strict=True)))


def _compared(images: Images, tags: Tags) -> tuple[Check, ...]:
    """The kinds against each other."""
    most = max(images["none"].by_count)
    blind = images["none"].by_count[most]
    carried = {kind: found[LENGTHS[1]] for kind, found in tags.items()}

    def points(one: Spread, other: Spread) -> Spread:
        return _each(lambda pair: 100 * (pair[0] - pair[1]), one, other)

    return (
        Check(
            f"any kind of positions helps it, with {most:,} digits to learn from (least gain)",
            _each(min, *(points(images[kind].by_count[most], blind) for kind in images if kind != "none")),
            "percentage points",
            at_least=5.0,
        ),
        Check(
            "fixed sinusoids do about as well as learned ones (loss)",
            points(images["learned"].by_count[most], images["sinusoidal"].by_count[most]),
            "percentage points",
            at_most=10.0,
        ),
        Check(
            f"sinusoids carry over to twice the length (trained: {LENGTHS[0]} tokens)",
            carried["sinusoidal"],
            "of the answers",
            at_least=0.9,
        ),
        Check(
            "they carry over better than learned ones, of which the new places had no training",
            points(carried["sinusoidal"], carried["learned"]),
            "percentage points",
            at_least=5.0,
        ),
        Check(
            "rotary and relative positions carry over better than both (least gain)",
            _each(
                min,
                *(
                    points(carried[kind], carried[other])
                    for kind in ("rotary", "relative")
                    for other in ("sinusoidal", "learned")
                ),
            ),
            "percentage points",
            at_least=10.0,
        ),
        Check(
            f"learned positions, interpolated, carry over to digits enlarged to {SIZES[0]} x {SIZES[0]}",
            images["learned"].enlarged[SIZES[0]],
            "of those held out",
            at_least=0.8,
        ),
    )


def _compared_in_words(images: Images, tags: Tags) -> str:
    most, (_, double, longest), pixels = max(images["none"].by_count), LENGTHS, SIZES[0]

    def read(kind: PositionKind) -> str:
        return f"{images[kind].by_count[most].mean:.0%}"

    def enlarged(kind: PositionKind) -> str:
        return f"{images[kind].enlarged[pixels].mean:.0%}"

    def on_canvas(kind: PositionKind) -> str:
        return f"{images[kind].on_canvas[pixels].mean:.0%}"

    def tagged(kind: PositionKind, length: int) -> str:
        return f"{tags[kind][length].mean:.0%}"

    return (
        f"; with positions it reads {read('sinusoidal')} (sinusoidal), {read('learned')} (learned), "
        f"{read('relative')} (relative, which need the most steps) and {read('rotary')} (rotary). Sinusoids do not "
        f"carry over to longer sequences: at twice the length {tagged('sinusoidal', double)} of the answers are right, "
        f"and {tagged('learned', double)} with learned positions, whose new places were never trained: little more "
        f"than the old places alone give. Relative ({tagged('relative', double)}) and rotary ones "
        f"({tagged('rotary', double)}) carry further, not without end ({tagged('relative', longest)} and "
        f"{tagged('rotary', longest)} at four times the length). None carries a ViT to larger images unharmed. Of "
        f"digits enlarged to {pixels} x {pixels} pixels it reads {enlarged('learned')} with learned, interpolated "
        f"positions and {enlarged('sinusoidal')} with sinusoids, of digits on a larger canvas {on_canvas('learned')} "
        f"and {on_canvas('sinusoidal')}; without any it is {enlarged('none')} and {on_canvas('none')}, for what stands "
        "in the patches changes too."
    )


STUDY = Study(
    name="positions",
    claim=(
        "Attention sees a bag of tokens, so a Transformer cannot work without position encodings. Fixed sinusoids do "
        "as well as learned ones and carry over to longer sequences."
    ),
    method=(
        "Fresh models read random tokens and the same tokens shuffled. For an encoder the output is compared with "
        "its own shuffled likewise; for a causal decoder the logits after the last token, which stays in place. "
        "Differences are the largest over all numbers, in standard deviations of the output. Then models of two "
        "layers of width 32 are trained with Adam, all kinds with the same rate and steps: a ViT with patches of "
        "2 x 2 on handwritten digits of 8 x 8 pixels, tested on digits held out, also on a larger black canvas or "
        f"enlarged; and a text encoder that names at each of {LENGTHS[0]} random tokens the one {PLACES} places "
        "before, tested on longer sequences."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.5",
        "Haviv et al. 2022, Transformer Language Models without Positional Encodings Still Learn Positional "
        "Information",
        "Press et al. 2022, Train Short, Test Long (sinusoids do not extrapolate)",
        "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.2 (interpolated positions)",
    ),
    run=run,
)
