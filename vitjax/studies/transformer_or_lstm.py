"""RNN, LSTM and Transformer: gradient by distance, training in parallel, depth, reading at equal parameters."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vitjax.models.config import image_encoder
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.studies.lab.devices import with_devices
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.readers import LSTM, OPEN, READERS, RESIDUAL, RNN, TRANSFORMER, Reader, prose, recall
from vitjax.studies.lab.recurrence import by_distance, carousel, training_steps
from vitjax.studies.lab.strings import VOCABULARY, StringReader, string_transformer, strings
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, fresh, trained

WIDTH, RATE = 32, 3e-3
READING_RATE = 8e-3  # half of it is worse for the LSTM, as good for the Transformer
DEVICES, ROWS, STEP_WIDTH = 8, 8, 128  # of training steps that are timed


class Plan(NamedTuple):
    """How far, how long, how deep; what has no steps of training is left out."""

    distance: int  # tokens after which the first is to be recalled
    recalling: tuple[str, ...]
    recall: int  # steps, as below
    lengths: tuple[int, ...]  # of the training steps that are timed
    depths: tuple[int, ...] = ()
    prose: int = 0
    strings: int = 0


FLAT = (RNN, LSTM, OPEN, TRANSFORMER)  # of one layer
PLANS: dict[Size, Plan] = {
    "reduced": Plan(24, (OPEN,), 150, (8, 16)),
    "full": Plan(64, FLAT, 300, (32, 128, 512), (1, 3, 8), 200, 900),
    "long": Plan(256, FLAT, 3000, (32, 128, 512, 2048), (1, 2, 4, 8, 16), 4000, 4000),
}


class Part(NamedTuple):
    """What one experiment adds to the page: rows with a cell for each reader, and what a panel shows if it has one."""

    rows: dict[str, dict[str, Any]]
    checks: tuple[Check, ...]
    finding: str
    panel: dict[str, Any] | None = None


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Four experiments, of which a reduced run does two."""
    plan = PLANS[size]
    parts = [_memory(seeds, plan), _waiting(seeds, plan)]
    if plan.prose:
        parts.append(_depth(seeds, plan))
    if plan.strings:
        parts.append(_reading(seeds, plan))

    def draw(figure: Figure) -> None:
        panels = [part.panel for part in parts if part.panel]
        for axes, options in zip(figure.subplots(1, len(panels)), panels, strict=True):
            panel(axes, names=list(READERS), **options)

    cells = {what: row for part in parts for what, row in part.rows.items()}
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (what, *(row.get(name, "-") for name in READERS)) for what, row in cells.items()
    )
    checks = tuple(check for part in parts for check in part.checks)
    finding = " ".join(part.finding for part in parts)
    return Result(Table(("measured (unit)", *READERS), rows), checks, finding, draw, CAPTION)


def _memory(seeds: tuple[int, ...], plan: Plan) -> Part:
    """How far back the gradient of untrained readers reaches, what gates do to it, and what trained ones recall."""
    far, examples = plan.distance, recall(plan.distance, 8192)
    gradients, deviation, forget, kept, recalled = {}, {}, {}, {}, {}
    for name in FLAT:
        config = Build(partial(Reader, name, WIDTH))
        definition, params, _ = fresh(config, seeds)
        found = np.asarray(by_distance(definition, params, examples.inputs[:8]))
        gradients[name] = [Spread.of(at) for at in (found / found[:, 1:2]).T]
        if name in (LSTM, OPEN):
            gates = carousel(definition, params, examples.inputs[:8, :17])
            deviation[name], forget[name], kept[name] = map(Spread.of, gates)
        if name in plan.recalling:
            learned = trained(config, examples, seeds, steps=plan.recall, rate=RATE)
            recalled[name] = learned.accuracy(recall(far, 512))
    reach, distances = {name: of[far] for name, of in gradients.items()}, [1, *range(8, far + 1, 8)]
    curves = {name: [of[at] for at in distances] for name, of in gradients.items()}
    labels = {"xlabel": "distance (tokens)", "ylabel": "gradient (of that from the token before)"}
    unit = f"of that from 1 before, from {far} before"
    return Part(
        {
            f"gradient from {far} tokens before, untrained (of that from 1)": reach,
            "forget gate, untrained (mean)": forget,
            "memory kept over 16 tokens, untrained (product of forget gates)": kept,
            f"recall after {far} tokens (share of answers)": recalled,
        },
        (
            Check("an RNN's gradient vanishes with distance", reach[RNN], unit, at_most=1e-4, essential=True),
            Check(
                "along an LSTM's memory it is exactly the product of the forget gates",
                Spread.most(*deviation.values()),
                "of it, the largest deviation",
                at_most=1e-4,
                essential=True,
            ),
            Check("so an LSTM's does not vanish", reach[LSTM], unit, at_least=0.1),
            Check(
                "a Transformer's is as large from far as from near",
                reach[TRANSFORMER],
                unit,
                at_least=0.05,
                at_most=20.0,
                essential=True,
            ),
            Check(
                f"an LSTM cannot learn to recall a token after {far} others",
                recalled[OPEN],
                "of the answers, forget bias 5",
                at_most=0.5,
            ),
        ),
        f"From {far} tokens before, an untrained RNN's gradient is {reach[RNN].mean:.1g} times that from 1 token "
        f"before, an LSTM's {reach[LSTM].mean:.1g} times, a Transformer's {reach[TRANSFORMER].mean:.1f} times. The "
        "constant error carousel is no promise: along the memory the gradient is exactly the product of the forget "
        f"gates, and they begin at {forget[LSTM].mean:.2f}. Begun at {forget[OPEN].mean:.3f} (forget bias 5), the "
        f"gradient is {reach[OPEN].mean:.0f} times, and the LSTM learns to recall {100 * recalled[OPEN].mean:.0f}%.",
        dict(x=distances, curves=curves, title="untrained", log="y", **labels),
    )


def _waiting(seeds: tuple[int, ...], plan: Plan) -> Part:
    """Training steps by length: what must wait, what devices share, and the time."""
    lengths, last = plan.lengths, plan.lengths[-1]
    sizes = STEP_WIDTH, ROWS, lengths, len(seeds)
    chain, work, seconds_alone = training_steps(1, *sizes)
    _, part, seconds_over = with_devices(DEVICES, training_steps, DEVICES, *sizes)
    alone, together = (
        {name: [1e3 * Spread.of(at) for at in of] for name, of in found.items()}
        for found in (seconds_alone, seconds_over)
    )
    waits = {name: Spread(((of[-1] - of[0]) / (last - lengths[0]),)) for name, of in chain.items()}
    share = {name: part[name] / work[name] for name in work}
    computed = work[TRANSFORMER] / work[LSTM]
    title = f"one core (hollow: {DEVICES} devices)"
    labels = {"xlabel": "length (tokens)", "ylabel": "training step (ms)", "title": title}
    step, over, more = f"training step, {last} tokens", f"over {DEVICES} devices", "products, a token more"
    return Part(
        {
            f"{step}: matrix products one after another": {name: of[-1] for name, of in chain.items()},
            f"{step}: operations (millions)": {name: of / 1e6 for name, of in work.items()},
            f"{step}: time on one core (ms)": {name: of[-1] for name, of in alone.items()},
            f"{step}: time {over} (ms)": {name: of[-1] for name, of in together.items()},
            f"{step}: work of each, {over} (of one alone)": share,
        },
        (
            Check(
                "an LSTM's training step waits for each token",
                waits[LSTM],
                more,
                at_least=1.0,
                essential=True,
            ),
            Check("a Transformer's waits for none", waits[TRANSFORMER], more, at_most=0.0, essential=True),
            Check(
                f"{DEVICES} devices share the tokens of a Transformer, not those of an LSTM",
                Spread((share[LSTM] / share[TRANSFORMER],)),
                "times the share of the work that each does of the Transformer",
                at_least=2.0,
            ),
            Check(
                "with as many parameters a Transformer also computes less",
                Spread((computed,)),
                "operations for each of the LSTM's",
                at_most=1.0,
            ),
        ),
        f"At {last} tokens a Transformer's training step needs {computed:.1f} times the operations of an LSTM's with "
        f"as many parameters, but {chain[TRANSFORMER][-1]} matrix products one after another instead of "
        f"{chain[LSTM][-1]:,}. {DEVICES} devices can share its tokens; of an LSTM's each still does "
        f"{100 * share[LSTM]:.0f}% of all the work. On one core, where all must wait anyway, the Transformer's "
        f"step takes {(alone[TRANSFORMER][-1] / alone[LSTM][-1]).mean:.1f} times as long as the LSTM's.",
        dict(x=lengths, curves=alone, hollow=together, log="xy", **labels),
    )


def _depth(seeds: tuple[int, ...], plan: Plan) -> Part:
    """What readers of more and more layers have learned of English words after equally many steps."""
    text = prose(24, 8192)
    losses: dict[str, list[Spread]] = {}
    for name in (LSTM, RESIDUAL, TRANSFORMER):
        losses[name] = []
        for depth in plan.depths:
            make = partial(Reader, name, WIDTH, depth, every=True)
            learned = trained(Build(make), text, seeds, steps=plan.prose, rate=RATE)
            losses[name].append(Spread.of(learned.losses[:, -(plan.prose // 10) :].mean(1)))
    labels = {"xlabel": "depth (layers)", "ylabel": "loss (nats a character)"}
    deepest, last = plan.depths[-1], {name: of[-1] for name, of in losses.items()}
    return Part(
        {
            f"next character, depth {depth} (nats)": {name: of[place] for name, of in losses.items()}
            for place, depth in enumerate(plan.depths)
        },
        (
            Check(
                f"{deepest} Transformer layers learn more than as many LSTM layers with residual connections",
                last[RESIDUAL] - last[TRANSFORMER],
                "nats a character less",
                at_least=0.01,
            ),
        ),
        f"After equally few steps, {deepest} LSTM layers end at {last[LSTM].mean:.2f} nats a character, with residual "
        f"connections at {last[RESIDUAL].mean:.2f}, as many Transformer layers at {last[TRANSFORMER].mean:.2f}.",
        dict(x=plan.depths, curves=losses, title="after equal steps", log="x", **labels),
    )


def _reading(seeds: tuple[int, ...], plan: Plan) -> Part:
    """Strings of digits, read by the same encoder and decoders of as many parameters, within 0.1 % of the whole."""
    learn, held_out = (
        strings(digits, count, np.random.default_rng(count)).examples
        for digits, count in zip(digit_examples(), (12_288, 1_000), strict=True)
    )
    encoder, block = TransformerConfig(48, 2, 4, 96), TransformerConfig(48, 1, 4, 96)
    attending = string_transformer(encoder, block, positions="sinusoidal", scale_embedding=True)
    recurrent = ShowAttendTellConfig(image_encoder(attending), VOCABULARY, 38, 32, 48)
    read = {}
    for name, config in ((LSTM, recurrent), (TRANSFORMER, attending)):
        reader = Build(partial(StringReader, config))
        learned = trained(reader, learn, seeds, steps=plan.strings, rate=READING_RATE)
        right = (learned.named(held_out.inputs) == held_out.answers).all(-1)  # as greedy decoding gets them
        read[name] = Spread.of(right.mean(1))
    return Part(
        {"strings read right (share)": read},
        (
            Check(
                "with as many parameters a Transformer's decoder reads clearly more strings than an LSTM's",
                100 * (read[TRANSFORMER] - read[LSTM]),
                "percentage points",
                at_least=5.0,
            ),
        ),
        "Of strings of digits, with equal parameters and steps, a Transformer's decoder reads "
        f"{100 * read[TRANSFORMER].mean:.0f}% right, an LSTM's {100 * read[LSTM].mean:.0f}%. All this is small and "
        "short, and says nothing about much data and long training.",
    )


CAPTION = (
    "Left: gradient of what untrained readers say last with respect to each token before. Middle: a training step of "
    f"{ROWS} rows on one core; hollow: its tokens spread over {DEVICES} devices, which are threads of one CPU here, so "
    "that they save no more time than it has cores. Right: loss on the next character at equal width and steps."
)

STUDY = Study(
    name="transformer-or-lstm",
    claim=(
        "Recurrent networks forget and cannot be trained in parallel: an RNN's gradient vanishes with distance, the "
        "LSTM's memory keeps it but not for long; a Transformer reaches every token alike, trains in parallel and so "
        "faster, can be deeper, and is more accurate."
    ),
    method=(
        f"Readers of width {WIDTH}, in which a Transformer's block has as many parameters as an LSTM's cell, recall a "
        f"token after many others, or continue English words letter by letter, all with Adam at rate {RATE}. Matrix "
        "products that must wait for each other, and the work of each device, are counted in training steps (width "
        f"{STEP_WIDTH}). Three handwritten digits in an image are read by the same two-layer encoder with a "
        f"Transformer's decoder or with Show, Attend and Tell's LSTM, both at rate {READING_RATE}."
    ),
    sources=(
        "Hochreiter and Schmidhuber 1997, Long Short-Term Memory",
        "Gers et al. 2000, Learning to Forget: Continual Prediction with LSTM",
        "Tallec and Ollivier 2018, Can recurrent neural networks warp time? (forget gates that begin open)",
        "Vaswani et al. 2017, Attention Is All You Need, section 4",
        "Xu et al. 2015, Show, Attend and Tell",
    ),
    run=run,
)
