"""What of a Transformer runs in parallel: over tokens, beams, heads and devices, and what waits for what."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.analysis.programs import collectives, in_loops, longest_chain, outside_loops
from vitjax.decoding import GenerationConfig, beam_search, encode, sample
from vitjax.decoding.candidates import Share
from vitjax.decoding.request import start_tokens
from vitjax.decoding.spread import place_params, place_rows, search_over
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import Encoded, EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.studies.lab.devices import with_devices
from vitjax.studies.lab.drawing import COLORS, panel
from vitjax.studies.lab.programs import Program, seconds
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import fresh, unstacked

DEVICES, TEXTS, BEAMS, HEADS = 4, 4, 8, 4
AXES = {"-": "data", "texts": "data", "tokens": "data", "heads": "tensor", "beams": "beam"}  # of a mesh


class Sizes(NamedTuple):
    """Of the model; the numbers of tokens that it reads and writes, and of devices; how often times are taken."""

    width: int
    depth: int
    vocabulary: int
    tokens: tuple[int, ...]
    devices: tuple[int, ...]
    rounds: int


SIZES: dict[Size, Sizes] = {
    "reduced": Sizes(32, 1, 100, (16, 256), (4,), 2),
    "full": Sizes(256, 4, 1000, (16, 64, 256), (2, 4), 5),
    "long": Sizes(512, 4, 4000, (16, 64, 256, 1024), (2, 4), 5),
}


class Case(NamedTuple):
    """A program: what it does to how many tokens of how many texts, and what of it is split over devices."""

    what: str
    tokens: int
    texts: int = 1
    split: str = "-"
    devices: int = 1

    @property
    def alone(self) -> "Case":
        """The same work on one device."""
        return Case(*self[:3])


ALONE = READ, GREEDY, AT_ONCE, TRAIN = "encoder", "decoder: greedy", "decoder: at once", "decoder: gradient"
SEARCH = f"decoder: {BEAMS} beams"


class Measured(NamedTuple):
    """Of a case; the last three of each seed."""

    chain: int  # matrix products that wait for each other in a step
    work: float  # operations of a device; a loop over tokens counts once
    sent: int  # bytes that a device receives in a step
    seconds: Sequence[float]
    steps: Sequence[int]  # that wait for each other
    written: Sequence[Any]  # tokens [B, T]


def split_over(devices: int, sizes: Sizes) -> dict[str, Case]:
    """All that is split: an encoder of the second number of tokens, and the search that writes the first after it."""
    few, more = sizes.tokens[:2]
    return {
        "encoder: texts": Case(READ, more, TEXTS, "texts", devices),
        "encoder: heads": Case(READ, more, 1, "heads", devices),
        "encoder: tokens": Case(READ, more, 1, "tokens", devices),
        "search: texts": Case(SEARCH, few, TEXTS, "texts", devices),
        "search: beams": Case(SEARCH, few, 1, "beams", devices),
    }


def mesh(split: str, devices: int) -> Mesh:
    """Of so many devices, over which something is split."""
    return make_mesh(MeshConfig(**{"data": 1, AXES[split]: devices}), jax.devices()[:devices])


def at_once(definition: Any, params: Tree, encoded: Encoded, text: Int[Array, "B T"]) -> tuple[Array, int]:
    """With teacher forcing: the first token, then the likeliest after each [B, T+1], in one step."""
    logits = merge(definition, params).decode(encoded, text, train=False).logits
    return jnp.concatenate([text[:, :1], logits.argmax(-1)], axis=1), 1


def training(definition: Any, params: Tree, encoded: Encoded, text: Int[Array, "B T"]) -> Tree:
    """Gradients of the loss on a text, with teacher forcing."""

    def loss(params: Tree) -> Float[Array, ""]:
        logits = merge(definition, params).decode(encoded, text, train=True).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], text[:, 1:]).mean()

    return jax.grad(loss)(params)


def stepwise(case: Case, mesh: Mesh, definition: Any, params: Tree, encoded: Encoded) -> tuple[Array, Array]:
    """A first token and those chosen after it [B, T+1], greedily or with beams; and in how many steps."""
    beams, method = (BEAMS, beam_search) if case.what == SEARCH else (1, sample)
    config = GenerationConfig(max_new_tokens=case.tokens, num_beams=beams, decoder_start_token_id=1)

    def on_device(params: Tree, encoded: Encoded, share: Share) -> Any:
        first = start_tokens(None, encoded, config)
        return method(merge(definition, params), encoded, first, config=config, share=share)

    out = search_over(mesh, on_device, params, encoded)
    return out.tokens[:, 0], out.steps


def measure(size: Size, seeds: Sequence[int]) -> list[tuple[Case, Measured]]:
    """All cases, in a process that has the devices; JSON."""
    sizes, places = SIZES[size], range(len(seeds))
    width, depth, vocabulary, tokens, *_ = sizes
    stack = TransformerConfig(width, depth, HEADS, 4 * width, unroll=True), vocabulary, tokens[-1] + 1
    config = EncoderDecoderConfig(TextEncoderConfig(*stack), DecoderConfig(*stack))
    definition, stacked, _ = fresh(config, tuple(seeds))
    models = {
        (split, count): [place_params(params, mesh(split, count)) for params in unstacked(stacked)]
        for split, count in product(("-", "heads"), (1, *sizes.devices))
    }
    texts = [np.random.default_rng(seed).integers(vocabulary, size=(TEXTS, tokens[-1])) for seed in seeds]
    read = [jax.device_get(encode(definition, models["-", 1][i], texts[i][:, : tokens[1]])) for i in places]
    programs: dict[Case, Program] = {}
    chains: dict[Case, int] = {}

    def arguments(case: Case, place: int) -> tuple:
        over = mesh(case.split, case.devices)
        params = models["heads" if case.split == "heads" else "-", case.devices][place]
        if case.what == READ:
            spread = NamedSharding(over, PartitionSpec(*(None,) * (case.split == "tokens"), "data"))
            return params, jax.device_put(texts[place][: case.texts, : case.tokens], spread)
        encoded = place_rows(jax.tree.map(lambda leaf: leaf[: case.texts], read[place]), over)
        if case.what in (GREEDY, SEARCH):
            return params, encoded
        return params, encoded, programs[Case(GREEDY, case.tokens)](place)[0][:, :-1]

    functions: dict[str, Callable[..., Any]] = {READ: encode, AT_ONCE: at_once, TRAIN: training}
    cases = [Case(what, count) for what in ALONE for count in tokens]
    cases += [case.alone for case in split_over(DEVICES, sizes).values()]
    cases += [case for devices in sizes.devices for case in split_over(devices, sizes).values()]
    for case in dict.fromkeys(cases):
        write = partial(stepwise, case, mesh(case.split, case.devices))
        function = partial(functions.get(case.what, write), definition)
        given = [arguments(case, place) for place in places]
        programs[case] = Program.of(function, *given, devices=case.devices)
        chains[case] = longest_chain(function, *given[0])  # of the first step; the others are alike
    times = seconds(programs, len(seeds), rounds=sizes.rounds)
    found = []
    for case, program in programs.items():
        text, loops = program.compiled.as_text(), case.what in (GREEDY, SEARCH)
        sent = sum(each.bytes for each in collectives(in_loops(text) if loops else outside_loops(text)))
        out = [program(place) for place in places] if loops or case.what == AT_ONCE else []
        steps, written = [int(steps) for _, steps in out] or [1], [tokens.tolist() for tokens, _ in out]
        found.append((case, Measured(chains[case], program.flops, sent, times[case].values, steps, written)))
    return found


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Measure, compare."""
    sizes = SIZES[size]
    few, more, most = *sizes.tokens[:2], sizes.tokens[-1]
    found = {Case(*case): Measured(*rest) for case, rest in with_devices(DEVICES, measure, size, seeds)}
    time = {case: 1e3 * Spread(tuple(one.seconds)) for case, one in found.items()}  # ms
    products = {case: one.chain * Spread.of(one.steps) for case, one in found.items()}
    of_one = {case: time[case] / time[case.alone] for case in found}
    split, greedy = split_over(DEVICES, sizes), Case(GREEDY, few)
    beams, in_turn = split["search: beams"], BEAMS * time[greedy]

    def same(*cases: Case) -> Spread:
        one, other = (found[case].written for case in cases)
        return Spread.of(np.equal(one, other).mean((1, 2)))

    sent = {name: Spread((found[case].sent / 1e3,)) for name, case in split.items()}
    chain = {what: products[Case(what, most)] / products[Case(what, few)] for what in (READ, TRAIN, GREEDY)}
    slower = time[Case(READ, most)] / time[Case(READ, few)]
    taught = same(Case(AT_ONCE, few), greedy)
    alike = Spread.least(*(same(case, case.alone) for case in split.values() if case.what == SEARCH))
    steps = Spread.of(found[beams].steps) / Spread.of(found[beams.alone].steps)
    work = max(found[case].work / found[case.alone].work for case in split.values() if case.what == READ)
    times, both = "times the products in a row", f"{most} tokens instead of {few}"
    checks = (
        Check(f"reading {both} has no longer chain", chain[READ], times, at_most=1.0, essential=True),
        Check(f"nor has training to write {both}", chain[TRAIN], times, at_most=1.0, essential=True),
        Check(f"nor has writing {both}", chain[GREEDY], times, at_most=1.0),
        Check("training finds the tokens that writing does", taught, "of the tokens", at_least=1.0),
        Check(f"reading {both} takes no longer", slower, "times as long", at_most=2.0),
        Check("beams over devices need fewer steps", steps, "times one device's", at_most=0.5),
        Check("a search over devices finds the same", alike, "of the tokens", at_least=1.0),
        Check("devices share the encoder's work", Spread((DEVICES * work,)), "times one's", at_most=1.25),
        Check("with texts of their own they exchange nothing", sent["encoder: texts"], "kB", at_most=0.0),
        Check("nor with heads of their own", sent["encoder: heads"], "kB", at_most=0.0),
        Check("nor with tokens of their own", sent["encoder: tokens"], "kB", at_most=0.0),
    )
    columns = *Case._fields, "products in a row", "received (kB/step)", "time (ms)", "time (of one device's)"
    rows = [(*case, products[case], one.sent / 1e3, time[case], of_one[case]) for case, one in found.items()]
    rows.append((f"{BEAMS} x {GREEDY}", *greedy[1:], BEAMS * products[greedy], 0.0, in_turn, of_one[greedy]))

    def draw(figure: Figure) -> None:
        timeline, middle, right = figure.subplots(1, 3, width_ratios=(1.6, 1.1, 1.1))
        show = partial(panel, legend="above")
        reading, apart = time[Case(READ, more)], time[split["encoder: texts"]]
        lanes = {
            "decoder at once": (reading, time[Case(AT_ONCE, few)], 1),
            "greedy": (reading, time[greedy], few),
            f"{BEAMS} beams, one batch": (reading, time[beams.alone], few),
            f"{BEAMS} times greedy": (reading, in_turn, BEAMS * few),
        }
        numbers = range(1, DEVICES + 1)
        lanes |= {f"beams, device {n}": (reading, time[beams], few) for n in numbers}
        lanes |= {f"texts, device {n}": (apart, time[split["search: texts"]], few) for n in numbers}
        for place, (first, then, count) in enumerate(lanes.values()):
            step, color = then.mean / count, COLORS[ALONE.index(AT_ONCE if count == 1 else GREEDY)]
            timeline.barh(place, first.mean, color=COLORS[0])
            for at in range(count):
                left = first.mean + at * step
                timeline.barh(place, step, left=left, color=color, alpha=(1.0, 0.6)[at % 2], lw=0)
        timeline.set_yticks(range(len(lanes)), list(lanes))
        timeline.set(xlabel="time (ms)", ylabel="what runs (one lane a device)", title="timeline")
        timeline.invert_yaxis()
        curves = {what: [time[Case(what, n)] for n in sizes.tokens] for what in ALONE}
        show(middle, sizes.tokens, curves, xlabel="tokens", ylabel="time (ms)", title="by tokens", log="xy")
        x, one = (1, *sizes.devices), Spread((1.0,))
        curves = {name: [of_one.get(split_over(n, sizes)[name], one) for n in x] for name in split}
        curves["1 / devices"] = [1 / n * one for n in x]
        show(right, x, curves, xlabel="devices", ylabel="time (of one device's)", title="by devices", log="x")

    return Result(
        Table(columns, tuple(rows)),
        checks,
        f"Reading is parallel: {found[Case(READ, few)].chain} matrix products wait for each other in the encoder and "
        f"{found[Case(TRAIN, few)].chain} in training the decoder with teacher forcing, for {few} tokens as for "
        f"{most}. Writing is not: a token is chosen from those before, so {few} tokens take "
        f"{products[greedy].mean:,.0f} products one after another and {most} take "
        f"{products[Case(GREEDY, most)].mean:,.0f}, on any hardware; in time, {most} one by one took "
        f"{(time[Case(GREEDY, most)] / time[Case(AT_ONCE, most)]).mean:.2g} times as long as at once. What is "
        f"parallel is not free: the encoder took {slower.mean:.2g} times as long for {most} tokens as for {few}. "
        f"{BEAMS} beams in one batch took {(time[beams.alone] / in_turn).mean:.2g} times as long as one after another. "
        "Beam search spreads over devices and finds the same, but its steps stay as many, one after another, each with "
        f"{sent['search: beams'].mean:.3g} kB to every device. Only devices with texts of their own exchange nothing: "
        "what heads find is added up, and every token needs keys and values of all others. Of one device's time, "
        f"{DEVICES} took "
        + ", ".join(f"{of_one[case].mean:.2g} ({name})" for name, case in split.items())
        + ".",
        draw,
        f"Left: reading {more} tokens, then writing {few}, in measured times (of a search divided evenly among its "
        f"steps) and the colours of the middle; over {DEVICES} devices: {BEAMS} beams of one text, and {TEXTS} texts "
        f"with {BEAMS} beams each. Middle: at once is with teacher forcing, the gradient is that of training. Right: "
        "what is split over devices; 1 / devices would be ideal.",
    )


STUDY = Study(
    name="parallel",
    claim=(
        "A Transformer works on all tokens in parallel: it reads and writes them at once, and its texts, beams, heads "
        "and tokens spread over devices that each work on their own."
    ),
    method=(
        "A Transformer with random parameters writes a text for another. A chain is the most matrix products in a row, "
        "of which each needs the one before, counted in the traced program; work and exchanges are read from the "
        f"compiled one. Times are the shortest of several. The {DEVICES} devices are real if there are so many, else "
        "parts of a CPU: a program over n of them uses n cores, and what they exchange goes through memory. So times "
        "over devices say little about accelerators; chains, steps, work and exchanges are the same there."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 4 and table 1 (sequential operations)",
        "Shoeybi et al. 2019, Megatron-LM (heads over devices: two reductions a layer)",
        "Pope et al. 2022, Efficiently Scaling Transformer Inference (what decoding over devices costs)",
    ),
    run=run,
)
