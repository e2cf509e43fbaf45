"""What of a Transformer runs in parallel: over tokens, beams, heads and devices, and what waits for what."""

from itertools import product
from typing import Any

from matplotlib.figure import Figure

from vitjax.studies.lab.drawing import COLORS, curve
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.parallel_devices import BEAMS, DEVICES, ROWS, SHORT, SIZES, Sizes, measured

LABELS = {"rows": "images", "heads": "heads", "tokens": "patches", "beams": "beams"}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Measure in a process with four devices; compare."""
    sizes = SIZES[size]
    found = measured(size, seeds)
    chains, seconds, sent = found["chains"], found["seconds"], found["sent"]
    patches, length = sizes.side**2, sizes.length
    fewest, most = sizes.sides[0] ** 2, sizes.sides[-1] ** 2
    searches = [name for name in found["equal"] if name.startswith("search ") and name != "search batch"]

    def same(*values: float) -> Spread:
        """What is counted, not drawn: alike for all seeds."""
        return Spread.of(values[0] for _ in seeds)

    def ratio(over: str, under: str) -> Spread:
        return Spread.of(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    def growth(what: str) -> Spread:
        return same(chains[what][-1] / chains[what][0])

    def work(split: str) -> float:
        """Of all devices together, against one."""
        return (
            DEVICES
            * found["work"][f"encode {split} {DEVICES}"]
            / found["work"][_alone(f"encode {split}", patches)]
        )

    tokens = f"({length} tokens against {SHORT})"
    checks = (
        Check(
            f"an encoder of more tokens has no longer chain of matrix products ({most} patches against {fewest})",
            growth("encode"),
            "times as long",
            at_most=1.0,
            essential=True,
        ),
        Check(
            f"nor has a training step of a decoder, teacher-forced, gradient included {tokens}",
            growth("train"),
            "times as long",
            at_most=1.0,
            essential=True,
        ),
        Check(
            f"that is no matter of course: an LSTM decoder's grows {tokens}",
            same((chains["lstm"][-1] - chains["lstm"][0]) / (length - SHORT)),
            "products more for each token",
            at_least=1.0,
        ),
        Check(
            "training computes what generation does: one pass over what was written finds the same tokens",
            Spread.of(found["equal"]["teach"]),
            "of the tokens",
            at_least=1.0,
        ),
        Check(
            f"generation has no longer chain either {tokens}", growth("write"), "times as long", at_most=1.0
        ),
        Check(
            f"as all tokens are read at once, more of them take no longer ({most} patches against {fewest}, encoder)",
            ratio(f"encode {most}", f"encode {fewest}"),
            "times as long",
            at_most=2.0,
        ),
        Check(
            f"{BEAMS} beams in one batch have a chain as long as that of one",
            same(chains["search"][-1] / chains["write"][-1]),
            "times as long",
            at_most=1.0,
        ),
        Check(
            f"over {DEVICES} devices a search finds the same",
            Spread.of(map(min, zip(*(found["equal"][name] for name in searches), strict=True))),
            "of the tokens",
            at_least=1.0,
        ),
        Check(
            f"with its beams over {DEVICES} devices it needs fewer steps",
            Spread.of(
                a / b
                for a, b in zip(
                    found["steps"][f"search beams {DEVICES}"], found["steps"]["search"], strict=True
                )
            ),
            "times the steps on one device",
            at_most=0.5,
        ),
        Check(
            f"images, heads and patches split the encoder's work over {DEVICES} devices",
            same(max(map(work, ("rows", "heads", "tokens")))),
            "times one device's work, all together",
            at_most=1.25,
        ),
        *(
            Check(statement, same(sent[f"encode {split} {DEVICES}"] / 1e3), "kB to each device", at_most=0.0)
            for split, statement in (
                ("rows", "devices with images of their own send each other nothing (encoder)"),
                ("heads", "nor do devices with heads of their own"),
                ("tokens", "nor do devices with patches of their own"),
            )
        ),
    )

    encoder = f"{patches} patches"
    programs = [  # of the table: label, name, what its chain is
        *((f"encoder, {side**2} patches", f"encode {side**2}", "encode") for side in sizes.sides),
        (f"{encoder}, heads split", f"encode heads {DEVICES}", "encode"),
        (f"{encoder}, patches split", f"encode tokens {DEVICES}", "encode"),
        (f"{encoder}, {ROWS} images", "encode batch", "encode"),
        ("the same, images split", f"encode rows {DEVICES}", "encode"),
        (f"decoder, {length} tokens at once", f"teach {length}", "teach"),
        (f"decoder, {length} tokens one by one", f"write {length}", "write"),
        (f"{BEAMS} such sequences one after another", "one after another", "one after another"),
        (f"{BEAMS} beams in one batch", "search", "search"),
        (f"{BEAMS} beams, beams split", f"search beams {DEVICES}", "search"),
        (f"{BEAMS} beams, heads split", f"search heads {DEVICES}", "search"),
        (f"{ROWS} images, {BEAMS} beams each", "search batch", "search"),
        ("the same, images split", f"search rows {DEVICES}", "search"),
    ]

    def cells(label: str, name: str, chain: str) -> tuple[Cell, ...]:
        spread = any(f" {by} " in name for by in LABELS)
        return (
            label,
            DEVICES if spread else 1,
            chains[chain][-1],
            found["work"][name] / 1e6 if name.startswith(("encode", "teach")) else "-",
            sent[name] / 1e3 if spread else "-",
            Spread.of(1e3 * value for value in seconds[name]),
            ratio(name, _alone(name, patches)) if spread else "-",
        )

    columns = (
        "what",
        "devices",
        "matrix products one after another",
        "work of a device (MFLOP)",
        "to each device (kB; beams: a step)",
        "time (ms)",
        "of one device's time (times)",
    )
    table = Table(columns, tuple(cells(*program) for program in programs if program[1] in seconds))

    def draw(figure: Figure) -> None:
        timeline, time, devices = figure.subplots(1, 3, width_ratios=(1.75, 1, 1.1))
        _timeline(timeline, sizes, seconds)
        for place, (label, what, counts) in enumerate(
            (
                ("encoder, at once", "encode", [side**2 for side in sizes.sides]),
                ("decoder, at once", "teach", sizes.lengths),
                ("decoder, one by one", "write", sizes.lengths),
            )
        ):
            spreads = [Spread.of(1e3 * value for value in seconds[f"{what} {count}"]) for count in counts]
            curve(time, counts, spreads, label, place)
        ticks = sorted({*sizes.lengths, *(side**2 for side in sizes.sides)})
        time.set(xlabel="tokens", ylabel="time (ms)", title="time by tokens", xscale="log", ylim=(0, None))
        time.set_xticks(ticks, labels=map(str, ticks))
        time.set_xticks([], minor=True)
        counts = (1, *sizes.devices)
        splits = [*product(("encode",), ("rows", "heads", "tokens")), *product(("search",), sizes.splits)]
        for place, (what, by) in enumerate(splits):
            alone = _alone(f"{what} {by}", patches)
            spreads = [Spread.of([1.0])] + [ratio(f"{what} {by} {count}", alone) for count in sizes.devices]
            label = f"{'encoder' if what == 'encode' else 'search'}: {LABELS[by]}"
            curve(devices, counts, spreads, label, place)
        devices.plot(counts, [1 / count for count in counts], color="#999999", lw=1, ls=":")
        devices.set(xlabel="devices", ylabel="time (of one device's)", title="time by devices", xticks=counts)
        devices.set_ylim(0, 1.5 * devices.get_ylim()[1])  # room for the names
        for axes in (time, devices):
            axes.legend(fontsize=6.5)

    longer = ratio(f"encode {most}", f"encode {fewest}")
    over = {
        name: f"{ratio(f'{name} {DEVICES}', _alone(name, patches)).mean:.2g}"
        for name in ("encode rows", "encode heads", "encode tokens", "search beams")
    }
    return Result(
        table,
        checks,
        f"Reading is parallel: of the matrix products, {chains['encode'][0]} wait for each other in the encoder and "
        f"{chains['train'][0]} in a training step with teacher forcing, however many tokens there are. Writing is not: "
        f"a token is chosen from the one before, so {SHORT} tokens take {chains['write'][0]} products one after "
        f"another and {length} take {chains['write'][-1]}, on any hardware; in time, {length} one by one took "
        f"{ratio(f'write {length}', f'teach {length}').mean:.2g} times as long as at once. Nor is what is parallel "
        f"free: {most} patches took {longer.mean:.2g} times as long as {fewest}. {BEAMS} beams in one batch need as "
        "many steps as one; what that saves depends on how much one sequence leaves idle: here they took "
        f"{ratio('search', 'one after another').mean:.2g} times as long as one after another. Over devices beam search "
        "finds the same tokens, but in exactly as many steps, with an exchange in each. Only devices with images of "
        "their own need none: what heads find is added up, and every patch needs the keys and values of all others "
        f"({sent[f'encode tokens {DEVICES}'] / 1e3:,.0f} kB to each device in one pass). Over {DEVICES} devices the "
        f"encoder took {over['encode rows']} times the time of one with its images split, {over['encode heads']} with "
        f"its heads and {over['encode tokens']} with its patches, the search {over['search beams']} with its beams.",
        draw,
        f"Left: writing {length} tokens, to the measured durations (those of a search divided evenly among its steps; "
        f"over {DEVICES} devices: the {BEAMS} beams of one image, and {ROWS} images with {BEAMS} beams each). Right: "
        "the search has beams; dotted: 1 / devices.",
    )


def _alone(name: str, patches: int) -> str:
    """The program on one device that does the work of one over several."""
    what, by = name.split()[:2]
    if by == "rows":
        return f"{what} batch"
    return f"encode {patches}" if what == "encode" else "search"


def _timeline(axes: Any, sizes: Sizes, seconds: dict[str, list[float]]) -> None:
    """One lane a device; time runs to the right."""
    mean = {name: 1e3 * sum(values) / len(values) for name, values in seconds.items()}
    encoder, length = mean[f"encode {sizes.side**2}"], sizes.length
    lanes = [  # label, start and time of the encoder, time and number of the decoder's steps
        ("training: at once (forward)", 0.0, encoder, mean[f"teach {length}"], 1),
        ("greedy: one by one", 0.0, encoder, mean[f"write {length}"] / length, length),
        (f"{BEAMS} beams, one batch", 0.0, encoder, mean["search"] / length, length),
        (
            f"{BEAMS} of them one by one",
            0.0,
            encoder,
            mean["one after another"] / length / BEAMS,
            length * BEAMS,
        ),
    ]
    for device in range(DEVICES):
        waits = (0.0, encoder) if device == 0 else (encoder, 0.0)
        step = mean[f"search beams {DEVICES}"] / length
        lanes.append((f"beams, device {device + 1}", *waits, step, length))
    for device in range(DEVICES if f"search rows {DEVICES}" in mean else 0):
        step = mean[f"search rows {DEVICES}"] / length
        lanes.append(
            (f"image and beams, device {device + 1}", 0.0, mean[f"encode rows {DEVICES}"], step, length)
        )
    for place, (_, start, first, step, count) in enumerate(lanes):
        axes.barh(place, first, left=start, color="#b8c4ce", label=None if place else "encoder")
        for at in range(count):
            axes.barh(
                place,
                step,
                left=start + first + at * step,
                color=(COLORS[5], COLORS[3])[at // length % 2],
                alpha=(1.0, 0.55)[at % 2],
                lw=0,
                label=None if place or at else "decoder, a step each",
            )
    axes.set(
        yticks=range(len(lanes)), xlabel="time (ms)", ylabel="what runs (one lane a device)", title="timeline"
    )
    axes.set_yticklabels([label for label, *_ in lanes], fontsize=6.5)
    axes.invert_yaxis()
    axes.legend(fontsize=6.5, loc="upper right")


STUDY = Study(
    name="parallel",
    claim=(
        "Unlike a recurrent network, a Transformer works on all tokens in parallel: it reads and writes them at once, "
        "and its images, beams, heads and tokens spread over devices that each work on their own."
    ),
    method=(
        "An image-to-text Transformer with random parameters. Chains are counted in the traced programs: the most "
        "matrix products of which each needs the one before. Work and exchanges are read from the compiled programs. "
        f"Times are medians, all programs in turn. The {DEVICES} devices are real ones if there are so many, else "
        "parts of one CPU: then a program over n of them may use n cores, and what they exchange goes through memory. "
        "So the times over devices say little about accelerators; chains, steps, work and exchanges are the same there."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 4 and table 1 (sequential operations)",
        "Shoeybi et al. 2019, Megatron-LM (heads over devices: two reductions a layer)",
        "Pope et al. 2022, Efficiently Scaling Transformer Inference (what decoding over devices costs)",
    ),
    run=run,
)
