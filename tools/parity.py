"""Measure how far vitjax is from transformers and timm, and print a Markdown table, a line for each kind of checkpoint.

    python -m tools.parity [CASE ...]             # the golden files; needs no torch
    python -m tools.parity --live 2 [CASE ...]    # checkpoints made now, of 2 other sizes and seeds; `make parity`

A line tells the largest absolute differences, of float32 at the checkpoint's size and at another; how many of the
generated sequences are the reference's, token for token; and, live, whether the reference computes the same bits from
the checkpoint that vitjax writes again. Ends with status 1 if a difference is above 1e-5, or if a sequence or a bit is
not the reference's.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

import vitjax
from tests.weights.golden_cases import TOLERANCE, WEIGHTS, GoldenCase, case_names, differing_tokens, errors

LIVE = (
    {"width": 32, "heads": 4, "hidden": 72, "layers": 3, "patch": 4, "image": 24, "other": (16, 44)},
    {"width": 48, "heads": 2, "hidden": 88, "layers": 4, "patch": 7, "image": 42, "other": (35, 63)},
    {"width": 40, "heads": 5, "hidden": 60, "layers": 2, "patch": 6, "image": 36, "other": (54, 42)},
)
SAME = "same bits"
HEADINGS = ("case", "hidden states", "logits", "at another size", "sequences", "written again", "reference")


@dataclass(frozen=True)
class Line:
    """What was measured; None where a case has no such thing.

    Attributes:
      hidden, logits, other: largest absolute differences.
      same, sequences: generated sequences equal to the reference's, of how many.
      doubtful: sequences not compared, for the reference itself writes others in float64.
      written: what became of the checkpoint that vitjax wrote again: "same bits", or what is wrong.
    """

    case: str
    reference: str
    hidden: float | None
    logits: float | None
    other: float | None
    same: int = 0
    sequences: int = 0
    doubtful: int = 0
    written: str = ""

    @property
    def good(self) -> bool:
        measured = [error for error in (self.hidden, self.logits, self.other) if error is not None]
        return max(measured) <= TOLERANCE and self.same == self.sequences and self.written in ("", SAME)

    def cells(self) -> tuple[str, ...]:
        numbers = (
            "" if error is None else f"{error:.1e}" for error in (self.hidden, self.logits, self.other)
        )
        sequences = f"{self.same} of {self.sequences}" if self.sequences else ""
        if self.doubtful:
            sequences += f" ({self.doubtful} left out)"
        return self.case, *numbers, sequences, self.written, self.reference


def measure(name: str, case: GoldenCase, *, again: bool) -> Line:
    """One line; `again` also writes the checkpoint, which needs the reference. ValueError if it is not read."""
    model = vitjax.load(case.path)
    found = errors(model, case)
    line = Line(
        name,
        case.facts["reference"],
        hidden=largest(found, "tokens", "pooled", "encoder_tokens"),
        logits=largest(found, "logits"),
        other=largest(found, *(key for key in found if key.startswith("other_"))),
    )
    if again and "load" not in case.facts:
        line = replace(line, written=written_again(model, case))
    if not model.writes:
        return line
    counts = {key: len(case.expected[f"generated_{key}"]) for key in case.facts["generate"]}
    compared = {key: counts[key] for key in case.generates}
    wrong = sum(len(differing_tokens(model, case, key)) for key in compared)
    total = sum(compared.values())
    return replace(line, same=total - wrong, sequences=total, doubtful=sum(counts.values()) - total)


def written_again(model: vitjax.Model, case: GoldenCase) -> str:
    """Whether the reference computes the same from the folder that it wrote and from the one that we write."""
    from tests.golden.reference_round_trip import complete, computed

    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours"
        try:
            vitjax.save(model, ours, format="timm" if case.facts["reference"].startswith("timm") else "hf")
        except ValueError as error:
            return str(error)
        found, complaints = complete(ours, case.expected)
    if complaints:
        return str(complaints)
    original = computed(case.folder, case.expected)
    wrong = [name for name in original if not np.array_equal(found[name], original[name])]
    return f"other {', '.join(wrong)}" if wrong else SAME


def largest(found: dict[str, float], *keys: str) -> float | None:
    """Of the errors with these names, or None if there is none."""
    return max((found[key] for key in keys if key in found), default=None)


def golden(names: list[str]) -> Iterator[tuple[str, GoldenCase]]:
    """The cases under tests/golden/weights."""
    for name in names or case_names():
        yield name, GoldenCase.open(WEIGHTS / name)


def live(names: list[str], variants: int) -> Iterator[tuple[str, GoldenCase]]:
    """Each case anew, of another seed and other sizes."""
    from tests.golden.cases import CASES
    from tests.golden.make import quiet

    quiet()
    for name in names or CASES:
        for number in range(variants):
            sizes = replace(CASES[name].sizes, **LIVE[number % len(LIVE)])
            with tempfile.TemporaryDirectory() as folder:
                CASES[name].make(Path(folder), CASES[name].seed + 1000 * (number + 1), sizes)
                yield f"{name} {sizes.width}x{sizes.layers}", GoldenCase.open(Path(folder))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="*", help="only these cases, by name")
    parser.add_argument(
        "--live", type=int, default=0, metavar="N", help="make N checkpoints a case, here and now"
    )
    given = parser.parse_args()
    cases = live(given.case, given.live) if given.live else golden(given.case)
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}")
    good = True
    for name, case in cases:
        try:
            line = measure(name, case, again=given.live > 0)
        except ValueError as error:
            good = False
            print(f"| {name} | not read: {error} |", flush=True)
            continue
        jax.clear_caches()  # of thousands of programs, which take more memory maps than Linux allows
        good &= line.good
        print(f"| {' | '.join(line.cells())} |{'' if line.good else ' <-'}", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
