"""One head or many at equal parameters: accuracy, what several look-ups at once need, and how unlike the heads are."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.analysis.pruning import importance, keep_heads, strongest
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Examples, Trained, fresh, trained

LAYERS = 2  # of the digit reader; one layer names tokens
SEEN = 32  # images whose attention is compared
RANKED = 128  # learned images that tell how important a head is


@dataclass(frozen=True)
class Setting:
    """What is trained: `heads` to name tokens, `readers` (heads again) to read digits.

    Attributes:
      asked: how many tokens, each of one of `names`, must be named at each of `length` places.
      naming, reading: steps of training.
      patience: how many times the steps one head gets in another try; 0: there is none.
    """

    width: int = 64
    heads: tuple[int, ...] = (1, 2, 4, 8, 16)
    readers: tuple[int, ...] = (1, 2, 4, 8, 16)
    asked: tuple[int, ...] = (2, 4)
    names: int = 16
    length: int = 12
    naming: int = 400
    reading: int = 600
    patience: int = 3


FULL = Setting()
SETTINGS = {
    "reduced": Setting(32, (1, 4), (4,), (4,), names=8, length=8, reading=100, patience=0),
    "full": FULL,
    "long": Setting(naming=1200, reading=2000),
}


@dataclass(frozen=True)
class Reader:
    """Digit readers of all seeds: accuracy, and in bits the mean divergence of two heads' maps.

    Attributes:
      strangers: divergence of heads of two trained models.
      overlap: of the subspaces that two trained heads read keys from, as a multiple of that of random ones.
      halved: accuracy with the more important half of the heads of each layer alone; None if there is one.
    """

    accuracy: Spread
    fresh: Spread
    trained: Spread
    strangers: Spread
    overlap: Spread
    halved: Spread | None


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Name several tokens at once and read digits, with more and more heads."""
    setting = SETTINGS[size]
    counts = setting.heads
    named = {
        asked: {heads: _naming(setting, asked, heads, setting.naming, seeds) for heads in counts}
        for asked in setting.asked
    }
    readers = {heads: _reading(setting, heads, seeds) for heads in setting.readers}
    patient = setting.patience * setting.naming
    late = {1: _naming(setting, 4, 1, patient, seeds)} if patient else {}
    many = min(counts[-1], 8)  # as in the paper
    fewest = setting.asked[0]
    alone = (1 + (fewest - 1) / setting.names) / fewest  # right, if one is seen and the others guessed

    def gain(found: dict[int, Spread]) -> Spread:
        """Of many heads over one, in percentage points."""
        return Spread.of(100 * (a - b) for a, b in zip(found[many].values, found[1].values, strict=True))

    read = {heads: reader.accuracy for heads, reader in readers.items()}
    reader = readers[many]
    assert reader.halved is not None  # many are more than one
    half = Spread.of(
        100 * (all_ - some) for all_, some in zip(reader.accuracy.values, reader.halved.values, strict=True)
    )
    beyond = Spread.of(a / b for a, b in zip(reader.trained.values, reader.strangers.values, strict=True))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            f"{heads} x {setting.width // heads}",
            *(found[heads] for found in named.values()),
            *_cells(readers.get(heads)),
        )
        for heads in counts
    )
    checks = [
        Check(
            f"naming 4 tokens at once, {many} heads are better than one",
            gain(named[4]),
            "percentage points",
            at_least=10.0,
            essential=True,
        ),
        Check(
            f"one head sees one token at a time: it names one of {fewest} and guesses the others",
            named[fewest][1],
            "right (fraction)",
            at_most=alone + 0.02,
        ),
        Check(
            f"the {many} heads of a layer look at different places",
            reader.trained,
            "bits (1: at no place together)",
            at_least=0.1,
            essential=True,
        ),
        Check(
            "what two of them read keys from are different subspaces: they overlap no more than random ones",
            reader.overlap,
            "times the overlap of random ones",
            at_most=1.25,
        ),
        Check(
            "they do so because they learn together: heads of two models that never met differ less",
            beyond,
            "times the divergence of such strangers",
            at_least=1.25,
        ),
        Check(
            f"each is needed: without the less important half of the {many} x {LAYERS} accuracy falls",
            half,
            "percentage points",
            at_least=1.0,
        ),
    ]
    sentences = [
        "Width, parameters and operations are the same in every row.",
        "A head is a weighted mean, but that is not to see one token: with unequal weights it adds several up, and "
        f"what follows can tell them apart. Of {fewest} tokens one head names {named[fewest][1].mean:.2f}; had it seen "
        f"one and guessed, {alone:.2f}. But the more are asked, the harder that is: after the same training one head "
        f"names {named[4][1].mean:.2f} of 4 tokens, {many} heads {named[4][many].mean:.2f}.",
        f"Heads look at different places: the maps of two of {many} diverge by {reader.trained.mean:.2f} bits of at "
        f"most 1, and {reader.fresh.mean:.2f} before training. So do heads of two models that never met "
        f"({reader.strangers.mean:.2f}): each learns to look at a few places of its own, not to keep out of the way "
        f"of others. The subspaces they read keys from overlap {reader.overlap.mean:.2f} times as much as random ones: "
        "they are different, as chance made them.",
        f"Taking away the less important half of the {many * LAYERS} heads of the digit reader costs {half.mean:.1f} "
        "points if nothing is trained again: that most heads can go, as was found in large models, does not hold in "
        "such small ones.",
    ]
    if late:
        checks.append(
            Check(
                f"to learn longer does not help one head: after {setting.patience} times the steps it is as far behind",
                gain(named[4] | late),
                "percentage points",
                at_least=10.0,
            )
        )
        sentences.insert(2, f"After {setting.patience} times the steps it names {late[1].mean:.2f}.")
    if 1 in readers:
        points = gain(read)
        checks.append(
            Check(f"{many} heads read digits better than one", points, "percentage points", at_least=1.0)
        )
        sentences.insert(-2, f"On digits {many} heads gain {points.mean:.1f} points over one.")

    def draw(figure: Figure) -> None:
        naming, reading, unlike = figure.subplots(1, 3)
        for place, (asked, found) in enumerate(named.items()):
            curve(naming, counts, list(found.values()), f"{asked} token{'s' * (asked > 1)} at once", place)
        naming.set(ylabel="right (fraction)", title="naming tokens")
        curve(reading, setting.readers, list(read.values()), "held-out digits", 0)
        reading.set(ylabel="accuracy (fraction)", title="reading digits")
        several = [heads for heads in setting.readers if heads > 1]
        curve(unlike, several, [readers[heads].fresh for heads in several], "fresh", 0)
        curve(unlike, several, [readers[heads].trained for heads in several], "trained", 1)
        curve(unlike, several, [readers[heads].strangers for heads in several], "trained, two models", 2)
        unlike.set(ylabel="divergence of two heads' maps (bits)", title="how unlike", ylim=(0, 1))
        for axes in (naming, reading, unlike):
            axes.set_xscale("log", base=2)
            axes.set_xticks(counts, [str(heads) for heads in counts])
            axes.set(xlabel="heads")
            axes.legend()

    return Result(
        Table(
            (
                "heads x width",
                *(f"naming {asked} (fraction right)" for asked in named),
                "digits (fraction right)",
                "divergence of heads, fresh (bits)",
                "trained (bits)",
                "overlap of subspaces (times chance)",
                "with the stronger half of the heads (fraction)",
            ),
            rows,
        ),
        tuple(checks),
        " ".join(sentences),
        draw,
        "Accuracy of naming several tokens at each place and of reading digits, and the divergence of the maps of "
        "two heads of one layer, against the number of heads at the same width.",
    )


def _cells(reader: Reader | None) -> tuple[Cell, ...]:
    """Of the table, as far as there is something to say."""
    if reader is None:
        return ("-",) * 5
    if reader.halved is None:
        return reader.accuracy, "-", "-", "-", "-"
    return reader.accuracy, reader.fresh, reader.trained, reader.overlap, reader.halved


def _naming(setting: Setting, asked: int, heads: int, steps: int, seeds: tuple[int, ...]) -> Spread:
    """Share of right names on new sequences; each place must name so many tokens before it."""
    transformer = TransformerConfig(setting.width, 1, heads, 2 * setting.width)
    config = TextEncoderConfig(transformer, setting.names, setting.length)
    answers = [before(places) for places in range(1, asked + 1)]
    learned, held_out = sequences(answers, vocabulary=setting.names, length=setting.length)
    model = trained(lambda rngs: Tagger(config, asked, rngs=rngs), learned, seeds, steps=steps, rate=5e-3)
    return model.accuracy(held_out)


def _reading(setting: Setting, heads: int, seeds: tuple[int, ...]) -> Reader:
    """A small ViT that reads digits; its maps are those of held-out digits."""
    config = VisionTransformerConfig(
        TransformerConfig(setting.width, LAYERS, heads, 2 * setting.width),
        image_size=(8, 8),
        patch_size=(2, 2),
        channels=1,
        num_classes=10,
    )
    learned, held_out = digit_examples()

    seen = jnp.asarray(held_out.inputs[:SEEN])

    @jax.jit
    @jax.vmap
    def maps(params: Tree) -> Float[Array, "L B H N N"]:
        features = merge(model.definition, params).features(seen, train=False, return_attention=True)
        return features.attention

    model = trained(config, learned, seeds, steps=setting.reading)
    _, start, _ = fresh(config, seeds)
    first, last = maps(start), maps(model.params)
    return Reader(
        model.accuracy(held_out),
        _of_two(_divergence(first, first)),
        _of_two(_divergence(last, last)),
        Spread.of(_divergence(last, jnp.roll(last, 1, axis=0)).mean((1, 2))),
        _overlap(model.params["blocks"]["attention"]["key"]["kernel"]),
        _halved(config, model, learned).accuracy(held_out) if heads > 1 else None,
    )


def _halved(config: VisionTransformerConfig, model: Trained, learned: Examples) -> Trained:
    """The models with the more important half of the heads of each layer."""

    def loss(params: Tree, example: tuple[Array, Array]) -> Array:
        image, answer = example
        logits = merge(model.definition, params)(image[None], train=False)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, answer)

    ranked = learned.inputs[:RANKED], learned.answers[:RANKED]
    found = jax.jit(jax.vmap(lambda params: importance(params, loss, ranked).heads["attention"]))(
        model.params
    )
    halves = [
        keep_heads(
            config,
            jax.tree.map(lambda leaf, seed=seed: leaf[seed], model.params),
            strongest(each, config.transformer.num_heads // 2),
        )
        for seed, each in enumerate(found)
    ]
    definition, *_ = abstract(lambda rngs: halves[0][0].build(rngs=rngs))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in halves))
    return Trained(definition, params, model.stats, model.losses)


@jax.jit
@jax.vmap
def _divergence(maps: Float[Array, "L B H N N"], others: Float[Array, "L B h N N"]) -> Float[Array, "H h"]:
    """Jensen-Shannon divergence in bits of each two heads, mean over layers, images and queries."""

    def entropy(weights: Array) -> Array:
        return jax.scipy.special.entr(weights).sum(-1).mean((0, 1, -1)) / jnp.log(2)  # [...heads]

    maps, others = maps[:, :, :, None], others[:, :, None]
    return entropy((maps + others) / 2) - (entropy(maps) + entropy(others)) / 2


def _of_two(divergence: Float[Array, "seeds H H"]) -> Spread:
    """Mean over each two heads that are not the same one; of one head alone 0."""
    heads = divergence.shape[-1]
    return Spread.of(divergence.sum((1, 2)) / max(1, heads * (heads - 1)))


def _overlap(kernels: Float[Array, "seeds L D H C"]) -> Spread:
    """Of the spaces spanned by the kernels of each two heads of a layer, as a multiple of what chance gives, C / D."""
    width, heads, head_width = kernels.shape[2:]
    bases, _ = np.linalg.qr(np.moveaxis(np.asarray(kernels), 3, 2))  # [seeds, L, H, D, C]
    overlaps = (np.einsum("slhdc,slide->slhice", bases, bases) ** 2).sum((-2, -1)) / head_width
    others = (overlaps.sum((-2, -1)) - heads) / max(1, heads * (heads - 1))  # a head overlaps itself by 1
    return Spread.of(others.mean(axis=1) * width / head_width)


STUDY = Study(
    name="heads",
    claim=(
        "Many heads see different subspaces at different positions at once; a single head averages them away, so "
        "many small heads are better than one large one."
    ),
    method=(
        f"Models of one width ({FULL.width}) divide it among 1 to 16 heads, which leaves parameters and arithmetic "
        f"the same. One layer learns to name, at each of {FULL.length} places, the 2, 4 or 8 tokens before it (each "
        f"has one of {FULL.names} names). A ViT of {LAYERS} layers learns to read handwritten digits of 8 x 8 pixels. "
        "The attention maps of each two heads of its layers are compared by their Jensen-Shannon divergence (0: the "
        "same map; 1 bit: no place in common), and the less important half of the heads of each layer is removed (by "
        f"the gradient of the loss on {RANKED} learned digits; nothing is trained again)."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.2",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
        "Bhojanapalli et al. 2020, Low-Rank Bottleneck in Multi-head Attention Models",
    ),
    run=run,
)
