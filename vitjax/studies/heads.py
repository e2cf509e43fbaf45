"""One head or many at equal parameters: accuracy, and how unlike the maps and the subspaces of heads are."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.digits import digit_examples, digit_vit
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, fresh, trained

LAYERS = 2  # of the digit reader; one layer names tokens
SEEN = 32  # images whose attention is compared
PATIENCE = 3  # times the steps, in another try with one head


@dataclass(frozen=True)
class Setting:
    """What is trained: `heads` to name tokens, `readers` (heads again) to read digits.

    Attributes:
      asked: how many tokens, each of one of `names`, must be named at each of `length` places.
      naming, reading: steps of training.
    """

    width: int = 64
    heads: tuple[int, ...] = (1, 2, 4, 8, 16)
    readers: tuple[int, ...] = (1, 2, 4, 8, 16)
    asked: tuple[int, ...] = (2, 4)
    names: int = 16
    length: int = 12
    naming: int = 400
    reading: int = 600


FULL = Setting()
SETTINGS = {
    "reduced": Setting(32, (1, 4), (4,), (4,), names=8, length=8, reading=100),
    "full": FULL,
    "long": Setting(naming=1200, reading=2000),
}
# Of digit readers, as columns of the table; one head has the first alone.
ACCURACY, OVERLAP = "digits (fraction right)", "overlap of subspaces (times chance)"
FRESH, TRAINED = "divergence of maps, fresh (bits)", "divergence, trained (bits)"
STRANGERS = "divergence, of two models (bits)"


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Name several tokens at once and read digits, with more and more heads."""
    setting = SETTINGS[size]
    counts = setting.heads
    named = {
        asked: {heads: _naming(setting, asked, heads, setting.naming, seeds) for heads in counts}
        for asked in setting.asked
    }
    readers = {heads: _reading(setting, heads, seeds) for heads in setting.readers}
    many = min(counts[-1], 8)  # as in the paper
    reader = readers[many]
    fewest, most = setting.asked[0], setting.asked[-1]
    guessing = (1 + (fewest - 1) / setting.names) / fewest  # right, if one is seen and the others guessed

    checks = [
        Check(
            f"naming {most} tokens at once, {many} heads are better than one",
            100 * (named[most][many] - named[most][1]),
            "percentage points",
            at_least=10.0,
            essential=True,
        ),
        Check(
            f"one head sees one token at a time: it names one of {fewest} and guesses the others",
            named[fewest][1],
            "right (fraction)",
            at_most=guessing + 0.02,
        ),
        Check(
            f"the {many} heads of a layer look at different places",
            reader[TRAINED],
            "bits (1: at no place together)",
            at_least=0.1,
            essential=True,
        ),
        Check(
            "they do so because they learn together: heads of two models that never met differ less",
            reader[TRAINED] / reader[STRANGERS],
            "times the divergence of such strangers",
            at_least=1.25,
        ),
        Check(
            "what two of them read keys from are different subspaces: they overlap no more than random ones",
            reader[OVERLAP],
            "times the overlap of random ones",
            at_most=1.25,
        ),
    ]
    sentences = [
        "Width, parameters and operations are the same in every row. A head is a weighted mean, but that is not to see "
        "one token: with unequal weights it adds several up, and what follows can tell them apart. Of "
        f"{fewest} tokens one head names {named[fewest][1].mean:.2f}; had it seen one and guessed, {guessing:.2f}.",
        f"What many heads make easier is to look up several: after the same training one head names "
        f"{named[most][1].mean:.2f} of {most} tokens, {many} heads {named[most][many].mean:.2f}.",
        f"Heads look at different places: the maps of two of {many} diverge by {reader[TRAINED].mean:.2f} bits of at "
        f"most 1, and {reader[FRESH].mean:.2f} before training. But so do heads of two models that never met "
        f"({reader[STRANGERS].mean:.2f}): each learns to look at a few places of its own, not to keep out of the way "
        f"of others. The subspaces they read keys from overlap {reader[OVERLAP].mean:.2f} times as much as random "
        "ones: they are different, as chance made them.",
    ]
    if size != "reduced":
        late = _naming(setting, most, 1, PATIENCE * setting.naming, seeds)
        gain = 100 * (reader[ACCURACY] - readers[1][ACCURACY])
        checks += [
            Check(
                f"to learn longer does not help one head: after {PATIENCE} times the steps it is as far behind",
                100 * (named[most][many] - late),
                "percentage points",
                at_least=10.0,
            ),
            Check(f"{many} heads read digits better than one", gain, "percentage points", at_least=1.0),
        ]
        sentences.insert(2, f"After {PATIENCE} times the steps one head names {late.mean:.2f}.")
        sentences.insert(3, f"On digits {many} heads gain {gain.mean:.1f} points over one.")

    def draw(figure: Figure) -> None:
        naming, reading, unlike = figure.subplots(1, 3)
        at_once = {f"{asked} tokens at once": list(found.values()) for asked, found in named.items()}
        right = {"digits": [found[ACCURACY] for found in readers.values()]}
        several = [heads for heads in readers if heads > 1]
        kinds = {"fresh": FRESH, "trained": TRAINED, "trained, two models": STRANGERS}
        divergence = {name: [readers[heads][kind] for heads in several] for name, kind in kinds.items()}
        by_heads = partial(panel, xlabel="heads (number)", log="x", names=[*at_once, *right, *divergence])
        by_heads(naming, counts, at_once, ylabel="right (fraction)", title="naming tokens")
        by_heads(reading, setting.readers, right, ylabel="accuracy (fraction)", title="reading digits")
        by_heads(
            unlike,
            several,
            divergence,
            ylabel="divergence of two heads' maps (bits)",
            title="looking at different places",
            ylim=(0, 1),
        )

    columns = ("heads x width", *(f"naming {asked} (fraction right)" for asked in named))
    measures = (ACCURACY, FRESH, TRAINED, STRANGERS, OVERLAP)
    rows = tuple(
        (
            f"{heads} x {setting.width // heads}",
            *(found[heads] for found in named.values()),
            *(readers.get(heads, {}).get(measure, "-") for measure in measures),
        )
        for heads in counts
    )
    return Result(
        Table((*columns, *measures), rows),
        tuple(checks),
        " ".join(sentences),
        draw,
        "Against the number of heads at the same width: accuracy of naming several tokens at each place, of reading "
        "digits, and the divergence of the maps of two heads of one layer of the reader (0: the same map; 1: no place "
        "in common), or of two readers.",
    )


def _naming(setting: Setting, asked: int, heads: int, steps: int, seeds: tuple[int, ...]) -> Spread:
    """Share of right names on new sequences; each place must name so many tokens before it."""
    transformer = TransformerConfig(setting.width, 1, heads, 2 * setting.width)
    config = TextEncoderConfig(transformer, setting.names, setting.length)
    answers = [before(places) for places in range(1, asked + 1)]
    learned, held_out = sequences(answers, vocabulary=setting.names, length=setting.length)
    tagger = Build(partial(Tagger, config, asked))
    return trained(tagger, learned, seeds, steps=steps, rate=5e-3).accuracy(held_out)


def _reading(setting: Setting, heads: int, seeds: tuple[int, ...]) -> dict[str, Spread]:
    """What is measured of a small ViT that reads digits; its maps are those of held-out digits."""
    config = digit_vit(TransformerConfig(setting.width, LAYERS, heads, 2 * setting.width))
    learned, held_out = digit_examples()
    model = trained(config, learned, seeds, steps=setting.reading)
    found = {ACCURACY: model.accuracy(held_out)}
    if heads == 1:
        return found
    seen = jnp.asarray(held_out.inputs[:SEEN])

    @jax.jit
    @jax.vmap
    def maps(params: Tree) -> Float[Array, "L B H N N"]:
        return merge(model.definition, params).features(seen, train=False, return_attention=True).attention

    before_training, after = maps(fresh(config, seeds)[1]), maps(model.params)
    return found | {
        FRESH: _divergence(before_training, before_training),
        TRAINED: _divergence(after, after),
        STRANGERS: _divergence(after, jnp.roll(after, 1, axis=0)),
        OVERLAP: _overlap(model.params["blocks"]["attention"]["key"]["kernel"]),
    }


def _divergence(maps: Float[Array, "seeds L B H N N"], others: Float[Array, "seeds L B H N N"]) -> Spread:
    """Jensen-Shannon divergence in bits of two heads of a layer, mean over pairs, layers, images and queries."""
    pairs = np.asarray(_of_each_two(maps, others))
    return Spread.of(pairs[:, ~np.eye(pairs.shape[-1], dtype=bool)].mean(1))


@jax.jit
@jax.vmap
def _of_each_two(maps: Float[Array, "L B H N N"], others: Float[Array, "L B H N N"]) -> Float[Array, "H H"]:
    def entropy(weights: Float[Array, "L B heads others N N"]) -> Float[Array, "heads others"]:
        return jax.scipy.special.entr(weights).sum(-1).mean((0, 1, -1)) / jnp.log(2)

    maps, others = maps[:, :, :, None], others[:, :, None]
    return entropy((maps + others) / 2) - (entropy(maps) + entropy(others)) / 2


def _overlap(kernels: Float[Array, "seeds L D H C"]) -> Spread:
    """Of the spaces spanned by the kernels of two heads of a layer, as a multiple of what chance gives, C / D."""
    width, heads, head_width = kernels.shape[2:]
    bases, _ = np.linalg.qr(np.moveaxis(np.asarray(kernels), 3, 2))  # [seeds, L, H, D, C]
    overlaps = (np.einsum("slhdc,slide->slhice", bases, bases) ** 2).sum((-2, -1)) / head_width
    return Spread.of(overlaps[:, :, ~np.eye(heads, dtype=bool)].mean((1, 2)) * width / head_width)


STUDY = Study(
    name="heads",
    claim=(
        "Many heads see different subspaces at different positions at once; a single head averages them away, so "
        "many small heads are better than one large one."
    ),
    method=(
        f"Models of one width ({FULL.width}) divide it among 1 to {FULL.heads[-1]} heads, which leaves parameters and "
        f"arithmetic the same. One layer learns to name, at each of {FULL.length} places, the "
        f"{' or '.join(map(str, FULL.asked))} tokens before it (each has one of {FULL.names} names). A ViT of {LAYERS} "
        "layers learns to read handwritten digits of 8 x 8 pixels. The attention maps of each two heads of its layers "
        "are compared by their Jensen-Shannon divergence (0: the same map; 1 bit: no place in common), and the spaces "
        "they read keys from by the overlap of those that their matrices span."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.2",
        "Bhojanapalli et al. 2020, Low-Rank Bottleneck in Multi-head Attention Models",
    ),
    run=run,
)
