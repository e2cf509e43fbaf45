"""The width of beam search: what it finds, whether that is right, how long it takes; and dividing by length."""

import time
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.data.datasets.words import WORDS
from vitjax.decoding import GenerationConfig, generate
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import fresh, train

PAD, START, END, FIRST_LETTER = 0, 1, 2, 3
VOCABULARY = FIRST_LETTER + 26
SMUDGED = 0.2  # of the letters of a source
CLEAN, CONSTRUCTED = "all whole", "a fifth missing"
MISSING = {CLEAN: 0.0, CONSTRUCTED: 0.2}  # of the targets in training
BATCH, ROUNDS = 64, 3
ROUNDING = 1e-4  # nats: of the same words, added up in other programs


class Effort(NamedTuple):
    """Letters of the longest word, model, training steps, tested words, widths and penalties of searches."""

    longest: int
    width: int
    steps: int
    tested: int
    beams: tuple[int, ...]
    penalties: tuple[float, ...]


EFFORTS: dict[Size, Effort] = {
    "reduced": Effort(4, 32, 200, 256, (1, 4), (0.0, 1.0)),
    "full": Effort(8, 64, 600, 512, (1, 2, 4, 8, 16, 32), (0.0, 0.6, 1.0, 2.0)),
    "long": Effort(12, 128, 6000, 2048, (1, 2, 4, 8, 16, 32, 64), (0.0, 0.6, 1.0, 2.0)),
}


class Found(NamedTuple):
    """What a search wrote for each word, [seeds, N]: is it right, its log-probability, its letters."""

    right: np.ndarray
    log_prob: np.ndarray
    letters: np.ndarray


class Pairs(NamedTuple):
    """Words with smudged letters [..., L], and what to write: [..., L + 2] from START to END, then padding."""

    source: Int[np.ndarray, "*N L"]
    target: Int[np.ndarray, "*N T"]


class Reader(NamedTuple):
    """A trained model of each seed, and words to test it on."""

    definition: nnx.GraphDef
    params: list[Tree]
    test: Pairs

    def write(self, beams: int, penalty: float, seed: int, *, max_new_tokens: int | None = None) -> Any:
        """`Sequences` for the tested words, by the model of one seed."""
        source, target = self.test
        config = GenerationConfig(
            num_beams=beams,
            length_penalty=penalty if beams > 1 else 0.0,  # greedy decoding has none: one program
            max_new_tokens=max_new_tokens or target.shape[1] - 1,
            decoder_start_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
        )
        return generate(self.definition, self.params[seed], source, source_mask=source > PAD, config=config)

    def found(self, beams: int, penalty: float) -> Found:
        """What the models of all seeds write."""
        written = [self.write(beams, penalty, seed) for seed in range(len(self.params))]
        return Found(
            np.stack([(np.asarray(out.tokens)[:, 0] == self.test.target).all(axis=1) for out in written]),
            np.stack([np.asarray(out.token_log_probs).sum(axis=(1, 2)) for out in written]),
            np.stack([(np.asarray(out.tokens)[:, 0] >= FIRST_LETTER).sum(axis=1) for out in written]),
        )


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Read smudged words with searches of several widths, after whole targets and after some that are missing."""
    effort = EFFORTS[size]
    readers = _readers(effort, seeds)
    beams, widest = effort.beams, max(effort.beams)
    middle = min(8, widest)
    searches = sorted({(k, a) for k in beams for a in (0.0, 1.0)} | {(middle, a) for a in effort.penalties})
    found = {
        (task, *search): reader.found(*search) for task, reader in readers.items() for search in searches
    }
    right = {key: Spread.of(each.right.mean(axis=1)) for key, each in found.items()}
    log_prob = {key: Spread.of(each.log_prob.mean(axis=1)) for key, each in found.items()}
    empty = {key: Spread.of((each.letters == 0).mean(axis=1)) for key, each in found.items()}
    times = _times(readers[CLEAN], beams)

    def difference(
        of: dict[tuple[str, int, float], Spread], to: tuple, since: tuple, unit: float = 1.0
    ) -> Spread:
        return Spread.of(unit * (a - b) for a, b in zip(of[to].values, of[since].values, strict=True))

    widened = [
        found[task, wide, 0.0].log_prob - found[task, narrow, 0.0].log_prob
        for task in readers
        for narrow, wide in pairwise(beams)
    ]
    rows: list[tuple[Cell, ...]] = [
        (
            task,
            k,
            log_prob[task, k, 0.0],
            right[task, k, 0.0],
            empty[task, k, 0.0],
            right[task, k, 1.0],
            empty[task, k, 1.0],
            times[k] if task == CLEAN else "the same",
        )
        for task in readers
        for k in beams
    ]
    checks = [
        Check(
            f"{widest} beams find likelier words than greedy decoding, on the average ({task})",
            difference(log_prob, (task, widest, 0.0), (task, 1, 0.0)),
            "nats",
            at_least=0.01,
            essential=True,
        )
        for task in readers
    ]
    checks += [
        Check(
            f"and more of the right ones ({task})",
            difference(right, (task, widest, 0.0), (task, 1, 0.0), 100.0),
            "percentage points",
            at_least=0.0,
        )
        for task in readers
    ]
    checks += [
        Check(
            f"divided by length, what {widest} beams find is right more often than what one does ({CONSTRUCTED})",
            difference(right, (CONSTRUCTED, widest, 1.0), (CONSTRUCTED, 1, 1.0), 100.0),
            "percentage points",
            at_least=0.0,
        ),
        Check(
            f"{widest} beams take longer than one",
            times[widest],
            "times",
            at_least=1.5,
        ),
    ]
    if widest >= VOCABULARY:  # as many as there can be beginnings of one token
        checks += [
            Check(
                f"from {middle} beams to {widest} little changes ({CLEAN})",
                _either_way(difference(right, (CLEAN, widest, 0.0), (CLEAN, middle, 0.0), 100.0)),
                "percentage points, up or down",
                at_most=1.0,
            ),
            Check(
                f"where {widest} beams hold every beginning (two tokens), no narrower search finds anything likelier",
                _beaten(readers[CLEAN], beams),
                "of the words",
                at_most=0.0,
            ),
        ]

    def draw(figure: Figure) -> None:
        scores, exact, penalties = figure.subplots(1, 3)
        for place, task in enumerate(readers):
            curve(scores, beams, [log_prob[task, k, 0.0] for k in beams], task, 2 * place)
            for a, name in ((0.0, "sum"), (1.0, "mean")):
                curve(exact, beams, [right[task, k, a] for k in beams], f"{task}, {name}", 2 * place + int(a))
            swept = [right[task, middle, a] for a in effort.penalties]
            curve(penalties, effort.penalties, swept, task, 2 * place)
        for axes in (scores, exact):
            axes.set_xscale("log", base=2)
            axes.set_xticks(beams, [str(k) for k in beams])
            axes.set_xlabel("width (beams)")
        scores.set(ylabel="log-probability (nats)", title="what is found")
        exact.set(ylabel="right words (fraction)", title="is it right?")
        penalties.set(
            xlabel="length penalty (exponent)",
            ylabel="right words (fraction)",
            title=f"{middle} beams",
        )
        penalties.sharey(exact)
        scores.legend()
        exact.legend(loc="center right", bbox_to_anchor=(1.04, 0.35))

    return Result(
        Table(
            (
                "training targets",
                "beams",
                "log-probability (nats)",
                "right (fraction)",
                "nothing written (fraction)",
                "right, divided by length (fraction)",
                "nothing, divided by length (fraction)",
                "time (times one beam)",
            ),
            tuple(rows),
        ),
        tuple(checks),
        _finding(effort, middle, right, log_prob, empty, times, np.stack(widened)),
        draw,
        "Left: mean log-probability of the words found, by the sum alone. Middle: share that is right, ranked by the "
        f"sum of log-probabilities or by their mean. Right: the same for {middle} beams and other "
        "exponents of the length.",
    )


def _finding(
    effort: Effort,
    middle: int,
    right: dict[tuple[str, int, float], Spread],
    log_prob: dict[tuple[str, int, float], Spread],
    empty: dict[tuple[str, int, float], Spread],
    times: dict[int, Spread],
    widened: Float[np.ndarray, "pairs seeds N"],
) -> str:
    second, widest = effort.beams[1], max(effort.beams)
    few = min(4, widest)

    def percent(of: dict[tuple[str, int, float], Spread], task: str, penalty: float = 0.0) -> str:
        return f"from {100 * of[task, 1, penalty].mean:.1f}% to {100 * of[task, widest, penalty].mean:.1f}%"

    swept = " / ".join(f"{100 * right[CONSTRUCTED, middle, a].mean:.1f}%" for a in effort.penalties)

    def nats(task: str) -> str:
        return f"from {log_prob[task, 1, 0.0].mean:.2f} to {log_prob[task, widest, 0.0].mean:.2f} nats"

    return (
        f"From one beam to {widest}, the mean log-probability of what is found rises {nats(CLEAN)}, the share of right "
        f"words {percent(right, CLEAN)}; nearly all by {few} beams. Likelier is right only as far as the model is. "
        "One that was shown no target for a fifth of its examples finds likelier outputs with more beams, too "
        f"({nats(CONSTRUCTED)}), but more of them are empty ({percent(empty, CONSTRUCTED)}), and the right words go "
        f"{percent(right, CONSTRUCTED)} ({second} beams: {100 * right[CONSTRUCTED, second, 0.0].mean:.1f}%): greedy "
        "decoding does better by searching less. Ranked by the sum divided by the length, the wide search is better "
        f"again ({percent(right, CONSTRUCTED, 1.0)}); {middle} beams with exponents "
        f"{' / '.join(f'{a:g}' for a in effort.penalties)} get {swept}. The missing targets were put there "
        "on purpose; translation systems learn the same from faulty data and longer sentences. "
        f"{widest} beams take {times[widest].mean:.0f} times as long as one. A wider search need not find the likelier "
        "word, for another beam can push out the one that would have won; here it found a less likely one than the "
        f"next narrower search {(widened < -ROUNDING).sum()} of {widened.size:,} times."
    )


def _either_way(spread: Spread) -> Spread:
    return Spread.of(map(abs, spread.values))


def _pairs(
    words: Int[np.ndarray, "W L"], rng: np.random.Generator, shape: tuple[int, ...], missing: float
) -> Pairs:
    """Words drawn at random, their letters smudged; a share of the targets is empty."""
    drawn = words[rng.integers(0, len(words), shape)]
    smudged = rng.random(drawn.shape) < SMUDGED
    letters = rng.integers(FIRST_LETTER, VOCABULARY, drawn.shape)
    source = np.where(drawn == PAD, PAD, np.where(smudged, letters, drawn))
    kept = np.where(rng.random((*shape, 1)) < missing, PAD, drawn)
    edge = np.full((*shape, 1), PAD)
    target = np.concatenate([edge + START, kept, edge], axis=-1)
    np.put_along_axis(target, (kept != PAD).sum(axis=-1, keepdims=True) + 1, END, axis=-1)
    return Pairs(source.astype(np.int32), target.astype(np.int32))


def _readers(effort: Effort, seeds: tuple[int, ...]) -> dict[str, Reader]:
    """Models trained on smudged words, and other smudges of whole words to test them."""
    known = [word.ljust(effort.longest) for word in WORDS if len(word) <= effort.longest]
    words = np.array(
        [[ord(c) - ord("a") + FIRST_LETTER if c.strip() else PAD for c in word] for word in known]
    )
    transformer = TransformerConfig(effort.width, 1, 4, 2 * effort.width)
    config = EncoderDecoderConfig(
        TextEncoderConfig(transformer, VOCABULARY, effort.longest, positions="learned"),
        DecoderConfig(transformer, VOCABULARY, effort.longest + 2),
    )
    definition, fresh_params, _ = fresh(config, seeds)
    test = _pairs(words, np.random.default_rng(len(seeds)), (effort.tested,), 0.0)

    def loss_of(model: Any, pairs: Pairs) -> Array:
        source, target = pairs
        logits = model(source, target[:, :-1], source_mask=source > PAD, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, target[:, 1:])
        return losses.mean(where=target[:, 1:] > PAD)

    @jax.jit
    @jax.vmap
    def learned(params: Tree, batches: Pairs) -> Tree:
        return train(definition, params, {}, loss_of, batches, rate=3e-3)[0]

    readers = {}
    for task, missing in MISSING.items():
        drawn = [_pairs(words, np.random.default_rng(seed), (effort.steps, BATCH), missing) for seed in seeds]
        params = learned(fresh_params, jax.tree.map(lambda *arrays: np.stack(arrays), *drawn))
        of_each = [jax.tree.map(lambda leaf, i=place: leaf[i], params) for place in range(len(seeds))]
        readers[task] = Reader(definition, of_each, test)
    return readers


def _times(reader: Reader, beams: tuple[int, ...]) -> dict[int, Spread]:
    """Time of a search with one model after the other, in times of one beam: medians of alternate rounds."""
    taken: dict[int, list[list[float]]] = {k: [] for k in beams}
    for seed in range(len(reader.params)):
        rounds: dict[int, list[float]] = {k: [] for k in beams}
        for _ in range(ROUNDS):
            for k in beams:
                start = time.perf_counter()
                jax.block_until_ready(reader.write(k, 0.0, seed).tokens)
                rounds[k].append(time.perf_counter() - start)
        for k in beams:
            taken[k].append(rounds[k])
    return {
        k: Spread.of(median(mine) / median(one) for mine, one in zip(taken[k], taken[1], strict=True))
        for k in beams
    }


def _beaten(reader: Reader, beams: tuple[int, ...]) -> Spread:
    """Share of the words for which a narrower search of two tokens finds a likelier output than the widest."""
    shares = []
    for seed in range(len(reader.params)):
        *narrower, widest = (
            np.asarray(reader.write(k, 0.0, seed, max_new_tokens=2).scores)[:, 0] for k in beams
        )
        shares.append(np.mean([scores > widest + ROUNDING for scores in narrower]))
    return Spread.of(shares)


STUDY = Study(
    name="beam-width",
    claim="A wider beam search finds likelier outputs, and so better ones; it only takes longer.",
    method=(
        f"A Transformer of one encoder and one decoder layer reads English words a fifth of whose letters are smudged "
        "(replaced at random), and writes them as they were; it is trained on whole targets, or with a fifth of the "
        "targets empty, and tested on whole ones. Words are decoded with vitjax's beam search (the rules of "
        "transformers). Log-probability is the sum over letters and end; right is the whole word. Times are medians of "
        f"{ROUNDS} alternate rounds."
    ),
    sources=(
        "Koehn and Knowles 2017, Six Challenges for Neural Machine Translation",
        "Murray and Chiang 2018, Correcting Length Bias in Neural Machine Translation",
        "Ott et al. 2018, Analyzing Uncertainty in Neural Machine Translation (faulty data and wide beams)",
        "Stahlberg and Byrne 2019, On NMT Search Errors and Model Errors: Cat Got Your Tongue?",
    ),
    run=run,
)
