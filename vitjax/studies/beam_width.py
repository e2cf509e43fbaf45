"""The width of beam search: what it finds, whether that is right, how long it takes; and dividing by length."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int
from matplotlib.figure import Figure

from vitjax.data.datasets.words import WORDS
from vitjax.decoding import GenerationConfig, Sequences, generate
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.programs import seconds
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import fresh, stacked, train, unstacked

PAD, START, END, FIRST_LETTER = 0, 1, 2, 3
VOCABULARY = FIRST_LETTER + 26
SMUDGED, BATCH = 0.2, 64  # of the letters of a source; words
CLEAN, FAULTY = "all whole", "a fifth missing"
MISSING = {CLEAN: 0.0, FAULTY: 0.2}  # of the targets in training
SWEPT = 4  # beams with which exponents of the length are tried


class Effort(NamedTuple):
    """Letters of the longest word, model, training steps, tested words, widths and length penalties of searches."""

    longest: int
    width: int
    steps: int
    tested: int
    beams: tuple[int, ...]
    penalties: tuple[float, ...]


EFFORTS: dict[Size, Effort] = {
    "reduced": Effort(4, 32, 200, 256, (1, 4), (0.0, 1.0)),
    "full": Effort(8, 64, 600, 512, (1, 2, 4, 8, 16), (0.0, 0.6, 1.0, 2.0)),
    "long": Effort(12, 128, 6000, 1024, (1, 2, 4, 8, 16, 32, 64), (0.0, 0.6, 1.0, 2.0)),
}


class Pairs(NamedTuple):
    """Words with smudged letters, and what to write: from START to END, then padding."""

    source: Int[np.ndarray, "*N S"]
    target: Int[np.ndarray, "*N T"]


class Found(NamedTuple):
    """By a search for all words: mean log-probability (nats), how many are right and how many empty (%)."""

    log_prob: Spread
    right: Spread
    empty: Spread


Findings = dict[tuple[str, int, float], Found]  # by targets, beams, exponent of the length


class Reader(NamedTuple):
    """A trained model of each seed, and words to test it on."""

    definition: nnx.GraphDef
    params: list[Tree]
    test: Pairs

    def write(self, beams: int, penalty: float, seed: int) -> Sequences:
        """What a search finds for the tested words, by the model of one seed."""
        source, target = self.test
        config = GenerationConfig(
            num_beams=beams,
            length_penalty=penalty if beams > 1 else 0.0,  # greedy decoding has none: one program
            max_new_tokens=target.shape[1] - 1,
            decoder_start_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
        )
        return generate(self.definition, self.params[seed], source, source_mask=source > PAD, config=config)

    def found(self, beams: int, penalty: float) -> Found:
        """By the models of all seeds."""
        written = [self.write(beams, penalty, seed) for seed in range(len(self.params))]
        tokens = [np.asarray(each.tokens)[:, 0] for each in written]
        return Found(
            Spread.of(np.asarray(each.token_log_probs).sum(axis=(1, 2)).mean() for each in written),
            Spread.of(100 * (each == self.test.target).all(axis=1).mean() for each in tokens),
            Spread.of(100 * (each < FIRST_LETTER).all(axis=1).mean() for each in tokens),
        )


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Read smudged words with searches of several widths, after whole targets and after some that are missing."""
    effort = EFFORTS[size]
    readers = _readers(effort, seeds)
    searches = {(k, a) for k in effort.beams for a in (0.0, 1.0)} | {(SWEPT, a) for a in effort.penalties}
    found = {
        (task, *search): reader.found(*search) for task, reader in readers.items() for search in searches
    }
    taken = seconds({k: partial(readers[CLEAN].write, k, 0.0) for k in effort.beams}, len(seeds), rounds=2)
    times = {k: spread / taken[1] for k, spread in taken.items()}
    rows = [
        (task, k, *found[task, k, 0.0], *found[task, k, 1.0][1:], times[k] if task == CLEAN else "the same")
        for task in readers
        for k in effort.beams
    ]
    columns = "training targets", "beams", "log-probability (nats)", "right (%)", "empty (%)"
    divided = "right, by length (%)", "empty, by length (%)"
    return Result(
        Table((*columns, *divided, "time (times one beam)"), tuple(rows)),
        _checks(effort.beams[-1], found, times),
        _finding(effort, found, times),
        lambda figure: _draw(figure, effort, found),
        "Left: mean log-probability of the words found, by the sum alone. Middle: how many are right, ranked by the "
        f"sum of log-probabilities or by their mean. Right: {SWEPT} beams, the sum divided by a power of the length.",
    )


def _checks(widest: int, found: Findings, times: dict[int, Spread]) -> tuple[Check, ...]:
    likelier = {task: found[task, widest, 0.0].log_prob - found[task, 1, 0.0].log_prob for task in MISSING}
    better = {task: found[task, widest, 0.0].right - found[task, 1, 0.0].right for task in MISSING}
    divided = found[FAULTY, widest, 1.0].right - found[FAULTY, 1, 1.0].right
    search = f"{widest} beams find likelier words than greedy decoding, on the average"
    return (
        *(
            Check(f"{search} ({task})", gain, "nats", at_least=0.01, essential=True)
            for task, gain in likelier.items()
        ),
        *(
            Check(f"and more of the right ones ({task})", gain, "percentage points", at_least=0.0)
            for task, gain in better.items()
        ),
        Check(
            f"divided by length, what {widest} beams find is right more often than what one does ({FAULTY})",
            divided,
            "percentage points",
            at_least=0.0,
        ),
        Check(f"{widest} beams take longer than one", times[widest], "times", at_least=1.5),
    )


def _draw(figure: Figure, effort: Effort, found: Findings) -> None:
    scores, exact, swept = figure.subplots(1, 3)
    beams, label, words = effort.beams, "log-probability (nats)", "right words (%)"
    log_prob = {task: [found[task, k, 0.0].log_prob for k in beams] for task in MISSING}
    panel(scores, beams, log_prob, xlabel="beams", ylabel=label, title="what is found", log="x", base=2)
    right = {task: [found[task, k, 0.0].right for k in beams] for task in MISSING}
    right[f"{FAULTY}, mean"] = [found[FAULTY, k, 1.0].right for k in beams]
    swept.sharey(exact)
    exact.margins(y=0.4)  # room for the legend
    panel(
        exact,
        beams,
        right,
        xlabel="beams",
        ylabel=words,
        title="is it right?",
        log="x",
        base=2,
        legend="lower right",
    )
    divided = {task: [found[task, SWEPT, a].right for a in effort.penalties] for task in MISSING}
    panel(
        swept, effort.penalties, divided, xlabel="power of the length", ylabel=words, title=f"{SWEPT} beams"
    )


def _finding(effort: Effort, found: Findings, times: dict[int, Spread]) -> str:
    second, widest = effort.beams[1], effort.beams[-1]

    def right(task: str, beams: int, penalty: float = 0.0) -> str:
        return f"{found[task, beams, penalty].right.mean:.1f}%"

    def nats(task: str) -> str:
        return " to ".join(f"{found[task, k, 0.0].log_prob.mean:.2f}" for k in (1, widest))

    empty = " to ".join(f"{found[FAULTY, k, 0.0].empty.mean:.1f}%" for k in (1, widest))
    return (
        f"From one beam to {widest}, the mean log-probability of what is found rises from {nats(CLEAN)} nats, the "
        f"share of right words from {right(CLEAN, 1)} to {right(CLEAN, widest)}; {SWEPT} beams: {right(CLEAN, SWEPT)}. "
        "Likelier is right only as far as the model is. One that was shown no target for a fifth of its examples finds "
        f"likelier outputs with more beams, too (from {nats(FAULTY)} nats), but more of them are empty (from {empty}), "
        f"and the right words go from {right(FAULTY, 1)} to {right(FAULTY, widest)} ({second} beams: "
        f"{right(FAULTY, second)}): greedy decoding does better by searching less. Ranked by the sum divided by the "
        f"length, the wide search is better again ({right(FAULTY, widest, 1.0)}); {SWEPT} beams with the powers "
        f"{' / '.join(f'{a:g}' for a in effort.penalties)} of the length get "
        f"{' / '.join(right(FAULTY, SWEPT, a) for a in effort.penalties)}. The missing targets were put there on "
        "purpose; translation systems learn the same from faulty data and longer sentences. "
        f"{widest} beams take {times[widest].mean:.0f} times as long as one."
    )


def _pairs(
    words: Int[np.ndarray, "W S"], rng: np.random.Generator, shape: tuple[int, ...], missing: float
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
        [[FIRST_LETTER + ord(c) - ord("a") if c.strip() else PAD for c in word] for word in known]
    )
    transformer = TransformerConfig(effort.width, 1, 4, 2 * effort.width)
    config = EncoderDecoderConfig(
        TextEncoderConfig(transformer, VOCABULARY, effort.longest, positions="learned"),
        DecoderConfig(transformer, VOCABULARY, effort.longest + 2),
    )
    definition, params, _ = fresh(config, seeds)
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

    def reader(missing: float) -> Reader:
        shape = effort.steps, BATCH
        batches = stacked([_pairs(words, np.random.default_rng(seed), shape, missing) for seed in seeds])
        return Reader(definition, jax.device_put(unstacked(learned(params, batches))), test)

    return {task: reader(missing) for task, missing in MISSING.items()}


STUDY = Study(
    name="beam-width",
    claim="A wider beam search finds likelier outputs, and so better ones; it only takes longer.",
    method=(
        "A Transformer of one encoder and one decoder layer reads English words a fifth of whose letters are smudged "
        "(replaced at random), and writes them as they were; it is trained on whole targets, or with a fifth of the "
        "targets empty, and tested on whole ones. Words are decoded with vitjax's beam search (the rules of "
        "transformers). Log-probability is the sum over letters and end; right is the whole word. Times are the "
        "shortest of two rounds in which all searches take turns."
    ),
    sources=(
        "Koehn and Knowles 2017, Six Challenges for Neural Machine Translation",
        "Murray and Chiang 2018, Correcting Length Bias in Neural Machine Translation",
        "Ott et al. 2018, Analyzing Uncertainty in Neural Machine Translation (faulty data and wide beams)",
        "Stahlberg and Byrne 2019, On NMT Search Errors and Model Errors: Cat Got Your Tongue?",
    ),
    run=run,
)
