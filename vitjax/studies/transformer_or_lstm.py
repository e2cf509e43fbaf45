"""RNN, LSTM and Transformer: gradient by distance, training in parallel, reading at equal parameters, depth."""

from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.strings import strings
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import fresh, trained
from vitjax.studies.transformer_or_lstm_devices import (
    DEVICES,
    ONE,
    ROWS,
    SIZES,
    TOKENS,
    Sizes,
    Steps,
    measured,
)
from vitjax.studies.transformer_or_lstm_readers import (
    ALPHABET,
    KEPT,
    ReaderConfig,
    TranscriberConfig,
    by_depth,
    by_distance,
    carousel,
    prose,
    read_right,
    recall,
    transcribing,
)

WIDTH, RATE, READING_RATE = 32, 3e-3, 8e-3


class Plan(NamedTuple):
    """How far, how deep and how long; a task of no steps is left out.

    Attributes:
      distances: tokens after which the first is to be recalled, by the readers `recalling`.
      deep: readers whose `depths` are compared, continuing prose, rows of `length` characters.
      recall, prose, strings: steps of training of each task.
    """

    distances: tuple[int, ...]
    recalling: tuple[str, ...]
    deep: tuple[str, ...]
    depths: tuple[int, ...]
    length: int
    recall: int
    prose: int
    strings: int


RNN, SHUT, LSTM, OPEN = "RNN", "LSTM, forget bias 0", "LSTM", "LSTM, forget bias 5"
RESIDUAL, TRANSFORMER = "LSTM, residual", "Transformer"
READERS: dict[str, dict[str, Any]] = {
    RNN: {"core": "rnn"},
    SHUT: {"core": "lstm", "forget_bias": 0.0},
    LSTM: {"core": "lstm"},
    OPEN: {"core": "lstm", "forget_bias": 5.0},
    RESIDUAL: {"core": "lstm", "residual": True},
    TRANSFORMER: {"core": "transformer"},
}
FLAT = (RNN, SHUT, LSTM, OPEN, TRANSFORMER)  # of one layer
DEEP = (LSTM, RESIDUAL, TRANSFORMER)
COLUMNS = (RNN, LSTM, OPEN, RESIDUAL, TRANSFORMER)
CORES = {LSTM: "lstm", TRANSFORMER: "transformer"}
PLANS: dict[Size, Plan] = {
    "reduced": Plan((24,), (OPEN,), (), (), 0, 150, 0, 0),
    "full": Plan((16, 64), (RNN, LSTM, OPEN, TRANSFORMER), DEEP, (1, 3, 8), 24, 300, 200, 900),
    "long": Plan((64, 256), (RNN, LSTM, OPEN, TRANSFORMER), DEEP, (1, 2, 4, 8, 16), 64, 3000, 4000, 4000),
}


@dataclass(frozen=True)
class Found:
    """All that is measured, by the names of the readers.

    Attributes:
      gradients: of fresh readers [seeds, distance].
      memory: what `carousel` finds in LSTMs, fresh and after learning to recall over the nearer distance.
      recalled: share of right answers after so many tokens.
      first: gradient of the first of the most layers, of that of the last.
      losses: of continued prose (nats), at each depth.
      read, halfway: share of strings read right, and the loss (nats a digit) after half of the steps.
      steps: of training, on one device and on eight, of readers of `sizes`.
    """

    plan: Plan
    gradients: dict[str, Float[np.ndarray, "seeds distance"]]
    memory: dict[str, dict[str, Spread]]
    recalled: dict[tuple[str, int], Spread]
    first: dict[str, Spread]
    losses: dict[str, list[Spread]]
    read: dict[str, Spread]
    halfway: dict[str, Spread]
    steps: dict[str, Steps]
    sizes: Sizes

    def reach(self, name: str) -> Spread:
        """Gradient from the farthest token, of that from the one before the last."""
        return Spread.of(self.gradients[name][:, self.plan.distances[-1]] / self.gradients[name][:, 1])

    def share(self, name: str, spread: str) -> float:
        """What one of the devices does of the work of one alone, at the longest length."""
        return self.steps[name].work[spread][-1] / self.steps[name].work[ONE][-1]

    def growth(self, name: str) -> Spread:
        """Products in the chain of a training step for each token more."""
        chain = self.steps[name].chain
        return Spread(((chain[-1] - chain[0]) / (self.sizes.lengths[-1] - self.sizes.lengths[0]),))

    def times(self, name: str, spread: str = ONE) -> list[Spread]:
        """Of a training step, at each length (ms)."""
        return [Spread.of(1e3 * seconds for seconds in at) for at in self.steps[name].seconds[spread]]

    def exponent(self, name: str) -> Spread:
        """Of the growth of the time on one device from the last length but one to the last."""
        grown = _each(self.times(name)[-1], self.times(name)[-2], lambda a, b: log(a / b))
        return Spread.of(
            value / log(self.sizes.lengths[-1] / self.sizes.lengths[-2]) for value in grown.values
        )

    @property
    def computed(self) -> float:
        """Operations of the Transformer's longest training step for each of the LSTM's."""
        return self.steps[TRANSFORMER].work[ONE][-1] / self.steps[LSTM].work[ONE][-1]


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Gradients and gates; recall, prose and strings learned; training steps on one and on eight devices."""
    found = _measure(seeds, size)
    return Result(
        _table(found), _checks(found), _finding(found), lambda figure: _draw(figure, found), CAPTION
    )


def _measure(seeds: tuple[int, ...], size: Size) -> Found:
    plan = PLANS[size]
    some = recall(plan.distances[-1], 8).inputs
    gradients, memory, recalled = {}, {}, {}
    for name in FLAT:
        definition, params, _ = fresh(_reader(name), seeds)
        gradients[name] = np.asarray(by_distance(definition, params, some))
        if name in (LSTM, OPEN):
            memory[name] = _spreads(carousel(definition, params, recall(plan.distances[0], 8).inputs))
    for distance in plan.distances:
        for name in plan.recalling:
            learned = trained(_reader(name), recall(distance, 8192), seeds, steps=plan.recall, rate=RATE)
            recalled[name, distance] = learned.accuracy(recall(distance, 512))
            if name in memory and distance == plan.distances[0]:
                after = carousel(learned.definition, learned.params, recall(distance, 8).inputs)
                memory[f"{name}, learned"] = _spreads(after)
    first, losses, read, halfway = {}, {}, {}, {}
    for name in plan.deep:
        text = prose(plan.length, 8192)
        definition, params, _ = fresh(_continuing(name, plan.depths[-1]), seeds)
        norms = by_depth(definition, params, (text.inputs[:32], text.answers[:32]))
        first[name] = Spread.of(norms[:, 0] / norms[:, -1])
        if plan.prose:
            learned_of = [
                trained(_continuing(name, depth), text, seeds, steps=plan.prose, rate=RATE).losses
                for depth in plan.depths
            ]
            losses[name] = [Spread.of(loss[:, -(plan.prose // 10) :].mean(1)) for loss in learned_of]
    if plan.strings:
        learn, held_out = (
            transcribing(strings(digits, count, np.random.default_rng(count)))
            for digits, count in zip(digit_examples(), (12_288, 1_000), strict=True)
        )
        for name, core in CORES.items():
            learned = trained(_transcriber(core), learn, seeds, steps=plan.strings, rate=READING_RATE)
            right = read_right(learned.definition, learned.params, held_out.inputs, held_out.answers)
            read[name] = Spread.of(right)
            middle = plan.strings // 2
            halfway[name] = Spread.of(learned.losses[:, middle - 25 : middle + 25].mean(1))
    steps = measured(size, seeds)
    return Found(
        plan,
        gradients,
        memory,
        recalled,
        first,
        losses,
        read,
        halfway,
        {name: steps[core] for name, core in CORES.items()},
        SIZES[size],
    )


def _reader(name: str, **options: Any) -> Any:
    config = ReaderConfig(**{"vocabulary_size": 2 * KEPT, "width": WIDTH, **READERS[name], **options})
    return config


def _continuing(name: str, depth: int) -> Any:
    return _reader(name, depth=depth, vocabulary_size=len(ALPHABET), answers="every")


def _transcriber(core: str) -> Any:
    config = TranscriberConfig(core)
    return config


def _spreads(found: dict[str, Any]) -> dict[str, Spread]:
    return {name: Spread.of(values) for name, values in found.items()}


def _each(a: Spread, b: Spread, of: Any) -> Spread:
    return Spread.of(map(of, a.values, b.values))


def _checks(found: Found) -> tuple[Check, ...]:
    far, deep = found.plan.distances[-1], max(found.plan.depths, default=0)
    reach, more = (
        f"of that from 1 before, from {far} before",
        "matrix products one after another, a token more",
    )
    checks = [
        Check(
            "an RNN's gradient vanishes with distance",
            found.reach(RNN),
            reach,
            at_most=1e-4,
            essential=True,
        ),
        Check(
            "along an LSTM's memory it is exactly the product of the forget gates",
            Spread.of(map(max, zip(*(of["deviation"].values for of in found.memory.values()), strict=True))),
            "of it, the largest deviation",
            at_most=1e-4,
            essential=True,
        ),
        Check("so an LSTM's does not vanish", found.reach(LSTM), reach, at_least=0.1),
        Check(
            "a Transformer's is as large from far as from near",
            found.reach(TRANSFORMER),
            reach,
            at_least=0.05,
            at_most=20.0,
            essential=True,
        ),
        Check(
            f"an LSTM cannot learn to recall a token after {far} others",
            found.recalled[OPEN, far],
            "of the answers, forget bias 5",
            at_most=0.5,
        ),
        Check(
            "an LSTM's training step waits for each token",
            found.growth(LSTM),
            more,
            at_least=1.0,
            essential=True,
        ),
        Check(
            "a Transformer's training step waits for none",
            found.growth(TRANSFORMER),
            more,
            at_least=0.0,
            at_most=0.0,
            essential=True,
        ),
        Check(
            f"{DEVICES} devices share the tokens of a Transformer, not those of an LSTM",
            Spread((found.share(LSTM, TOKENS) / found.share(TRANSFORMER, TOKENS),)),
            "times the share of the work that each does of the Transformer",
            at_least=2.0,
        ),
        Check(
            "with as many parameters a Transformer also computes less",
            Spread((found.computed,)),
            "operations for each of the LSTM's",
            at_most=1.0,
        ),
    ]
    if found.first:
        checks.append(
            Check(
                f"the first of {deep} LSTM layers hardly gets a gradient, residual connections or not",
                found.first[RESIDUAL],
                "of the last layer's, with them",
                at_most=0.1,
            )
        )
    if found.losses:
        checks.append(
            Check(
                f"{deep} Transformer layers learn more than as many LSTM layers with residual connections",
                _each(found.losses[RESIDUAL][-1], found.losses[TRANSFORMER][-1], float.__sub__),
                "nats a character less",
                at_least=0.01,
            )
        )
    if found.read:
        checks.append(
            Check(
                "with as many parameters a Transformer's decoder reads clearly more strings than an LSTM's",
                _each(found.read[TRANSFORMER], found.read[LSTM], lambda a, b: 100 * (a - b)),
                "percentage points",
                at_least=5.0,
            )
        )
    return tuple(checks)


def _table(found: Found) -> Table:
    plan, longest = found.plan, found.sizes.lengths[-1]
    rows: list[tuple[Cell, ...]] = []

    def row(what: str, cells: dict[str, Any]) -> None:
        if cells:
            rows.append((what, *(cells.get(name, "-") for name in COLUMNS)))

    def steps(what: str, of: Any) -> None:
        row(f"training step, {longest} tokens: {what}", {name: of(name) for name in CORES})

    row(
        f"gradient from {plan.distances[-1]} tokens before, fresh (of that from 1)",
        {name: found.reach(name) for name in FLAT},
    )
    row("forget gate, fresh (mean)", {name: found.memory[name]["forget"] for name in (LSTM, OPEN)})
    for suffix, when in (("", "fresh"), (", learned", "after learning it")):
        row(
            f"memory kept over {plan.distances[0]} tokens, {when} (product of gates)",
            {
                name: found.memory[name + suffix]["kept"]
                for name in (LSTM, OPEN)
                if name + suffix in found.memory
            },
        )
    for distance in plan.distances:
        row(
            f"recall after {distance} tokens (share of answers)",
            {name: right for (name, far), right in found.recalled.items() if far == distance},
        )
    steps("products one after another", lambda name: found.steps[name].chain[-1])
    steps("operations (millions)", lambda name: found.steps[name].work[ONE][-1] / 1e6)
    for spread in found.sizes.spreads:
        steps(
            f"{spread} over {DEVICES} devices, work of each (of one alone)",
            lambda name, spread=spread: found.share(name, spread),
        )
    if found.sizes.rounds:
        steps("time on one core (ms)", lambda name: found.times(name)[-1])
        steps("growth of the time with length (exponent)", found.exponent)
        steps(
            f"tokens over {DEVICES} devices, time (of one core's)",
            lambda name: _each(found.times(name, TOKENS)[-1], found.times(name)[-1], float.__truediv__),
        )
    row("strings read right (share)", found.read)
    row("loss half-way there (nats a digit)", found.halfway)
    for place in (0, -1) if found.losses else ():
        row(
            f"next character, depth {plan.depths[place]} (nats)",
            {name: losses[place] for name, losses in found.losses.items()},
        )
    deep = max(plan.depths, default=0)
    row(f"gradient of the first of {deep} layers, fresh (of the last's)", found.first)
    return Table(("measured (unit)", *COLUMNS), tuple(rows))


def _finding(found: Found) -> str:
    far, chain = found.plan.distances[-1], {name: steps.chain[-1] for name, steps in found.steps.items()}
    text = (
        f"From {far} tokens before, the gradient of a fresh RNN is {found.reach(RNN).mean:.0e} times that from the "
        f"token before, of an LSTM {found.reach(LSTM).mean:.0e} times, of a Transformer "
        f"{found.reach(TRANSFORMER).mean:.1f} times. The constant error carousel is no promise: along the memory "
        "the gradient is exactly the product of the forget gates, and they begin at "
        f"{found.memory[LSTM]['forget'].mean:.2f}. "
        f"Begun at {found.memory[OPEN]['forget'].mean:.3f} (forget bias 5), the gradient stays, and the LSTM recalls "
        f"{100 * found.recalled[OPEN, far].mean:.0f}% after {far} tokens: an initialisation stood in its way, not a "
        f"law. A Transformer does not compute less: at {found.sizes.lengths[-1]} tokens it needs {found.computed:.1f} "
        f"times the operations of an LSTM with as many parameters, but {chain[TRANSFORMER]} matrix products one after "
        f"another instead of {chain[LSTM]:,}. {DEVICES} devices can share the batch of both, and the tokens of the "
        f"Transformer alone: of the LSTM each still does {100 * found.share(LSTM, TOKENS):.0f}% of all the work. "
    )
    if found.sizes.rounds:
        longer = _each(found.times(TRANSFORMER)[-1], found.times(LSTM)[-1], float.__truediv__).mean
        text += f"On one core, where all must wait anyway, its step takes {longer:.1f} times as long as the LSTM's. "
    if found.losses:
        deep = {name: losses[-1].mean for name, losses in found.losses.items()}
        text += (
            f"What depth needs is residual connections: {found.plan.depths[-1]} plain LSTM layers end at "
            f"{deep[LSTM]:.2f} nats a character, with residual connections at {deep[RESIDUAL]:.2f}, as many "
            f"Transformer layers at {deep[TRANSFORMER]:.2f}, after equally few steps. "
        )
    if found.read:
        text += (
            "Of strings of digits, with equal parameters and steps, the Transformer's decoder reads "
            f"{_percent(found.read[TRANSFORMER])} right, the LSTM's {_percent(found.read[LSTM])}; half-way there their "
            f"losses were {found.halfway[TRANSFORMER].mean:.2f} and {found.halfway[LSTM].mean:.2f} nats a digit. All "
            "this is small and short, and says nothing about much data and long training."
        )
    return text.strip()


def _percent(share: Spread) -> str:
    return f"{100 * share.mean:.0f}% ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _draw(figure: Figure, found: Found) -> None:
    place = {name: at for at, name in enumerate((*FLAT, RESIDUAL))}
    panels = iter(figure.subplots(1, 1 + bool(found.sizes.rounds) + bool(found.losses), squeeze=False)[0])
    axes = next(panels)
    for name in FLAT:
        relative = (found.gradients[name] / found.gradients[name][:, 1:2])[:, 1:]
        distances = range(1, 1 + relative.shape[1])
        curve(axes, distances, [Spread.of(at) for at in relative.T], name, place[name])
    axes.set(
        xlabel="distance (tokens)", ylabel="gradient (of that from the token before)", title="fresh readers"
    )
    axes.set(yscale="log", ylim=(1e-14, 1e3))
    axes.legend(fontsize=7)

    def by(numbers: tuple[int, ...], **labels: str) -> None:
        axes.set(xscale="log", **labels)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.legend(fontsize=7)

    if found.sizes.rounds:
        axes = next(panels)
        for name in CORES:
            for spread, label, more in ((ONE, "one core", 0), (TOKENS, f"{DEVICES} devices", 1)):
                at = place[name] + more
                curve(axes, found.sizes.lengths, found.times(name, spread), f"{name}, {label}", at)
        axes.set(yscale="log")
        by(found.sizes.lengths, xlabel="length (tokens)", ylabel="training step (ms)", title="tokens spread")
    if found.losses:
        axes = next(panels)
        for name, losses in found.losses.items():
            curve(axes, found.plan.depths, losses, name, place[name])
        by(
            found.plan.depths,
            xlabel="depth (layers)",
            ylabel="loss (nats a character)",
            title="after equal steps",
        )


CAPTION = (
    "Left: gradient of what is said last with respect to each token before. Middle: one training step of "
    f"{ROWS} rows; the {DEVICES} devices are threads of one CPU, so that they save no more time than it has cores. "
    "Right: loss on the next character at equal width and steps."
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
        "products that must wait for each other, and the work of each device, are counted in the programs. Three "
        "handwritten digits in an image are read by the same two-layer encoder with a Transformer's decoder or with "
        f"Show, Attend and Tell's LSTM, both at rate {READING_RATE}; half of it was worse for the LSTM, as good "
        "for the Transformer."
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
