"""Positions of five kinds: order without any, accuracy by training-set size, longer sequences, larger images."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from PIL import Image

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PositionKind
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import bars, panel
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, Config, Examples, fresh, trained

KINDS: tuple[PositionKind, ...] = get_args(PositionKind)
TOKENS = {"reduced": 8, "full": 64, "long": 512}  # to shuffle
COUNTS = {"reduced": (1437,), "full": (100, 400, 1437), "long": (50, 100, 200, 400, 800, 1437)}
STEPS = {"reduced": 100, "full": 600, "long": 4000}
# Of learning from images, what is best for each kind; see `method`:
RATES = {kind: 5e-3 if kind == "none" else 1e-2 for kind in KINDS}
SIDE = 12  # pixels of images larger than the 8 x 8 of training
VOCABULARY, PLACES = 16, 3  # of sequences; how far to look back in them
LENGTHS = (12, 24, 48)  # of sequences, in tokens: the first is that of training
BLOCKS = TransformerConfig(width=32, depth=2, num_heads=4, feed_forward_width=64)
ROUNDING = 1e-5  # what sums in another order may differ by in float32, in deviations of the output

Found = dict[str, list[Spread]]  # accuracies by kind


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Shuffle tokens; train models with each kind of positions, and show them more tokens than they were trained on.

    Reduced: one kind against none where tokens are shuffled, and training without positions on images.
    """
    counts, steps, full = COUNTS[size], STEPS[size], size != "reduced"
    kinds: tuple[PositionKind, ...] = KINDS if full else ("none", "rotary")
    order = {kind: _of_encoder(kind, TOKENS[size], seeds) for kind in kinds}
    causal = {depth: _of_decoder(depth, TOKENS[size], seeds) for depth in (1, 2)}
    digits: Found = {kind: _read(kind, counts, seeds, steps) for kind in (kinds if full else kinds[:1])}
    tags: Found = {kind: _tagged(kind, seeds, steps) for kind in kinds} if full else {}
    larger = {kind: found[-3:] for kind, found in digits.items()}  # as trained, on a canvas, enlarged
    blind = larger["none"][0]

    images = [f"{count:,} digits to learn from (fraction)" for count in counts]
    images += [f"{how}, {SIDE} x {SIDE} pixels (fraction)" for how in ("on a canvas", "enlarged")]
    texts = [f"{PLACES} places back, {length} tokens (fraction)" for length in LENGTHS]
    rows: list[tuple[Cell, ...]] = [("difference that order makes (deviations)", *order.values())]
    for labels, found in ((images, digits), (texts, tags)):
        for place, label in enumerate(labels):
            cells = (found[kind][place] if kind in found else "not run" for kind in kinds)
            rows.append((f"accuracy, {label}", *cells))

    far = "deviations"
    equivariant = "without positions, shuffling an encoder's tokens only shuffles its output"
    changes = "with any kind of positions it changes the output (least of all kinds)"
    one_layer = "a causal decoder of one layer without them does not see the order of the tokens before"
    least = Spread.least(*(order[kind] for kind in kinds[1:]))
    checks = [
        Check(equivariant, order["none"], far, at_most=ROUNDING, essential=True),
        Check(changes, least, far, at_least=100 * ROUNDING, essential=True),
        Check(one_layer, causal[1], far, at_most=ROUNDING),
        Check("nor does one of two layers", causal[2], far, at_most=ROUNDING),
        Check("without positions a ViT cannot read digits", blind, "of those held out", at_most=0.2),
        *(_compared(larger, tags) if full else ()),
    ]

    def draw(figure: Figure) -> None:
        by_count, by_length, by_size = figure.subplots(1, 3)
        common: dict[str, Any] = dict(ylabel="accuracy (fraction)", ylim=(0, 1.05))
        learned = {kind: found[: len(counts)] for kind, found in digits.items()}
        xlabel, title = "training set (digits)", "held-out digits"
        panel(by_count, counts, learned, xlabel=xlabel, title=title, log="x", **common)
        xlabel, title = "length (tokens)", f"token {PLACES} places back"
        panel(by_length, LENGTHS, tags, xlabel=xlabel, title=title, log="x", legend=None, **common)
        sizes = ("8\ntrained", f"{SIDE}\ncanvas", f"{SIDE}\nenlarged")
        xlabel, title = "images (pixels a side)", "larger images"
        bars(by_size, sizes, larger, xlabel=xlabel, title=title, legend=None, **common)

    return Result(
        Table(("what", *kinds), tuple(rows)),
        tuple(checks),
        "Without positions an encoder cannot tell one order of its tokens from another: shuffled tokens give the "
        f"same vectors, shuffled, up to rounding ({order['none'].high:.0e} deviations). A causal decoder can from its "
        "second layer on, for its mask tells each token how many stand before it: shuffling the past changes what the "
        f"last token says by {causal[2].mean:.1g} deviations with two layers, and by nothing with one. A ViT without "
        f"positions still reads {blind.mean:.0%} of held-out digits, for it knows each pixel's place within a patch"
        + (_compared_in_words(larger, tags) if full else "."),
        draw,
        f"Left: accuracy by training-set size. Middle: by length, of models trained on {LENGTHS[0]} tokens. Right: of "
        "models trained on digits of 8 x 8 pixels, on others of this size, on the same on a larger black canvas, and "
        "enlarged. Colours mean the same in all panels. Guessing has 0.1 for digits and 0.06 for tokens.",
    )


def _compared(larger: Found, tags: Found) -> list[Check]:
    """The kinds against each other."""
    read = {kind: found[0] for kind, found in larger.items()}
    carried = {kind: found[1] for kind, found in tags.items()}
    points, share = "percentage points", "of the answers"
    gain = Spread.least(*(read[kind] - read["none"] for kind in KINDS[1:]))
    others = Spread.most(carried["sinusoidal"], carried["learned"])
    further = Spread.least(carried["rotary"], carried["relative"]) - others
    better = "they carry over better than learned ones, whose new places had no training"
    return [
        Check("any kind of positions helps it (least gain)", 100 * gain, points, at_least=5.0),
        Check(
            "fixed sinusoids do about as well as learned ones (loss)",
            100 * (read["learned"] - read["sinusoidal"]),
            points,
            at_most=10.0,
        ),
        Check("sinusoids carry over to twice the length", carried["sinusoidal"], share, at_least=0.9),
        Check(better, 100 * (carried["sinusoidal"] - carried["learned"]), points, at_least=5.0),
        Check("rotary and relative ones better than both (least gain)", 100 * further, points, at_least=10.0),
        Check(
            "learned ones, interpolated, carry over to enlarged digits",
            larger["learned"][2],
            share,
            at_least=0.8,
        ),
    ]


def _compared_in_words(larger: Found, tags: Found) -> str:
    def each(found: Found, place: int) -> str:
        return ", ".join(f"{found[kind][place].mean:.0%} ({kind})" for kind in KINDS[1:])

    _, double, longest = LENGTHS
    _, canvas, enlarged = (f"{spread.mean:.0%}" for spread in larger["none"])
    return (
        f"; with positions it reads, after equally many steps, {each(larger, 0)}. Sinusoids do not carry over to "
        f"longer sequences: of models trained on {LENGTHS[0]} tokens {each(tags, 1)} of the answers are right at "
        f"{double}, where half of the learned positions were never trained, and {each(tags, 2)} at {longest}. Nor does "
        f"any kind carry a ViT to larger images unharmed. Of digits enlarged to {SIDE} x {SIDE} pixels it reads "
        f"{each(larger, 2)}, learned positions being interpolated, and of digits on a canvas of that size "
        f"{each(larger, 1)}; without any it is {enlarged} and {canvas}, for what stands in the patches changes too."
    )


def _of_encoder(kind: PositionKind, length: int, seeds: tuple[int, ...]) -> Spread:
    """Difference between an encoder's output for shuffled tokens and its output, shuffled."""
    config = TextEncoderConfig(BLOCKS, VOCABULARY, length, positions=kind)
    return _difference(config, lambda model, tokens: model.encode(tokens, train=False)[0], length, seeds)


def _of_decoder(depth: int, length: int, seeds: tuple[int, ...]) -> Spread:
    """Difference that shuffling the tokens before makes to a decoder's logits after the last one."""
    config = DecoderConfig(replace(BLOCKS, depth=depth), VOCABULARY, length, positions="none")
    context = jnp.zeros((1, 1, BLOCKS.width))
    return _difference(
        Build(partial(TransformerDecoder, config, context_width=BLOCKS.width)),
        lambda model, tokens: model(tokens, context, train=False).logits,
        length,
        seeds,
        last=True,
    )


def _difference(
    config: Config,
    says: Callable[[Any, Int[Array, "1 T"]], Float[Array, "1 T D"]],
    length: int,
    seeds: tuple[int, ...],
    *,
    last: bool = False,
) -> Spread:
    """Between what fresh models say to random tokens, shuffled afterwards, and to the shuffled tokens.

    The largest of all numbers, in deviations of the output.

    Args:
      last: the last token keeps its place, and only what is said there counts.
    """
    definition, params, _ = fresh(config, seeds)
    generators = [np.random.default_rng(seed) for seed in seeds]
    tokens = np.stack([rng.integers(0, VOCABULARY, (1, length)) for rng in generators])
    kept = [length - 1] if last else []
    orders = np.stack([[*rng.permutation(length - len(kept)), *kept] for rng in generators])

    @jax.jit
    @jax.vmap
    def difference(params: Tree, tokens: Int[Array, "1 T"], order: Int[Array, " T"]) -> Array:
        model = merge(definition, params)
        plain, shuffled = says(model, tokens)[0, order], says(model, tokens[:, order])[0]
        counted = slice(-1, None) if last else slice(None)
        return jnp.abs(plain - shuffled)[counted].max() / plain[counted].std()

    return Spread.of(difference(params, tokens, orders))


def _read(kind: PositionKind, counts: tuple[int, ...], seeds: tuple[int, ...], steps: int) -> list[Spread]:
    """Accuracy on digits of a ViT that learned from so many; of the last also on a canvas and enlarged."""
    config = digit_vit(BLOCKS, positions=kind)
    learned, held_out = digit_examples()
    models = [
        trained(config, learned, seeds, steps=steps, rate=RATES[kind], num_examples=count) for count in counts
    ]
    larger = [Examples(images, held_out.answers) for images in (_on_canvas(held_out), _enlarged(held_out))]
    return [model.accuracy(held_out) for model in models] + [models[-1].accuracy(images) for images in larger]


def _on_canvas(digits: Examples) -> Float[np.ndarray, "N side side 1"]:
    """Digits as large as they were in the middle of a larger image."""
    margin = (SIDE - digits.inputs.shape[1]) // 2
    return np.pad(digits.inputs, ((0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=-1)


def _enlarged(digits: Examples) -> Float[np.ndarray, "N side side 1"]:
    """Digits that fill a larger image."""
    images = (Image.fromarray(image[..., 0]) for image in digits.inputs)
    larger = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(larger)[..., None]


def _tagged(kind: PositionKind, seeds: tuple[int, ...], steps: int) -> list[Spread]:
    """Accuracy at each length of a text encoder that learned at the first to name the token some places before."""
    config = Build(partial(Tagger, TextEncoderConfig(BLOCKS, VOCABULARY, LENGTHS[-1], positions=kind)))
    back = [before(PLACES, circle=False)]
    examples = [sequences(back, vocabulary=VOCABULARY, length=length) for length in LENGTHS]
    model = trained(config, examples[0][0], seeds, steps=steps, rate=5e-3)
    return [model.accuracy(held_out) for _, held_out in examples]


STUDY = Study(
    name="positions",
    claim=(
        "Attention sees a bag of tokens, so a Transformer cannot work without position encodings. Fixed sinusoids do "
        "as well as learned ones and carry over to longer sequences."
    ),
    method=(
        "Fresh models of width 32 read random tokens and the same tokens shuffled. For an encoder the output is "
        "compared with its own shuffled likewise; for a causal decoder the logits after the last token, which stays in "
        "place. Then models of two layers are trained with Adam, all kinds for equally many steps: a ViT with patches "
        "of 2 x 2 on handwritten digits of 8 x 8 pixels, each kind with the learning rate of 0.005, 0.01 and 0.02 that "
        "was best for it (to a percentage point); and a text encoder that names at each of "
        f"{LENGTHS[0]} random tokens the one {PLACES} places before."
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
