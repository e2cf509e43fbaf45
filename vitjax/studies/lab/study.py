"""What a study is: a textbook claim, an experiment that measures it, and the rule that makes the verdict.

A study is a module with a `STUDY`; `vitjax.studies.STUDIES` holds them all. Its `run` takes seeds and a size, and gives
a table, one figure and the checks that the verdict follows from. It prints, times and writes nothing: that is
`vitjax.studies.lab.report`.
"""

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal, TypeVar

from matplotlib.figure import Figure

Size = Literal["reduced", "full", "long"]
Verdict = Literal["holds", "holds under conditions", "wrong as usually stated"]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Spread:
    """One quantity at every seed; one value alone is the same at all.

    Calculates seed by seed, with numbers and other spreads: `100 * (one - other)`.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: object) -> "Spread":
        """The spread of anything that can be iterated over: a list, an array [seeds]."""
        return cls(tuple(float(value) for value in values))  # type: ignore[attr-defined]

    @classmethod
    def least(cls, *spreads: "Spread") -> "Spread":
        """Of several quantities the smallest, seed by seed."""
        return spreads[0]._with(spreads[1:], lambda *values: min(values))

    @classmethod
    def most(cls, *spreads: "Spread") -> "Spread":
        """Of several quantities the largest, seed by seed."""
        return spreads[0]._with(spreads[1:], lambda *values: max(values))

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __add__(self, other: "Spread | float") -> "Spread":
        return self._with([other], operator.add)

    def __sub__(self, other: "Spread | float") -> "Spread":
        return self._with([other], operator.sub)

    def __mul__(self, other: "Spread | float") -> "Spread":
        return self._with([other], operator.mul)

    def __truediv__(self, other: "Spread | float") -> "Spread":
        return self._with([other], operator.truediv)

    __radd__, __rmul__ = __add__, __mul__

    def __abs__(self) -> "Spread":
        return Spread.of(map(abs, self.values))

    def _with(self, others: Sequence["Spread | float"], of: Callable[..., float]) -> "Spread":
        all_ = [self.values] + [each.values if isinstance(each, Spread) else (each,) for each in others]
        seeds = max(map(len, all_))
        alike = (values * seeds if len(values) == 1 else values for values in all_)
        return Spread.of(of(*values) for values in zip(*alike, strict=True))


def spreads(found: Iterable[Mapping[Name, float]]) -> dict[Name, Spread]:
    """Of several quantities, by name, that were found with each seed."""
    of_seeds = list(found)
    return {name: Spread.of(each[name] for each in of_seeds) for name in of_seeds[0]}


Cell = str | int | float | Spread


@dataclass(frozen=True)
class Table:
    """`columns` name what stands below them with its unit in brackets; a row has a cell for each."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} cells, the table {len(self.columns)} columns: {row}")


@dataclass(frozen=True)
class Check:
    """A part of a claim as a number that must lie within bounds at every seed.

    Attributes:
      statement: the part, in words that are true if the check passes.
      measured: the number, with what it is in `unit`.
      essential: without it nothing is left of the claim.
    """

    statement: str
    measured: Spread
    unit: str
    at_least: float = float("-inf")
    at_most: float = float("inf")
    essential: bool = False

    def __post_init__(self):
        if any(isnan(value) for value in self.measured.values):
            raise ValueError(f"nothing was measured for {self.statement!r}: {self.measured.values}")

    @property
    def passed(self) -> bool:
        """Whether every seed lies within the bounds."""
        return all(self.at_least <= value <= self.at_most for value in self.measured.values)

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.at_least == self.at_most:
            return f"exactly {self.at_least:g}"
        parts = []
        if self.at_least != float("-inf"):
            parts.append(f"at least {self.at_least:g}")
        if self.at_most != float("inf"):
            parts.append(f"at most {self.at_most:g}")
        return ", ".join(parts)


RULE = (
    "A check passes if its number lies within its bounds at every seed. All pass: the claim holds. An essential one "
    "fails: it is wrong as usually stated. Otherwise it holds under conditions."
)


def verdict_of(checks: tuple[Check, ...]) -> Verdict:
    """The verdict by `RULE`."""
    if all(check.passed for check in checks):
        return "holds"
    if all(check.passed for check in checks if check.essential):
        return "holds under conditions"
    return "wrong as usually stated"


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Attributes:
      table, checks: the numbers.
      finding: what they say, in a few plain sentences.
      draw: puts the one figure into an empty matplotlib figure, see `vitjax.studies.lab.drawing`.
      caption: what the figure shows.
    """

    table: Table
    checks: tuple[Check, ...]
    finding: str
    draw: Callable[[Figure], None]
    caption: str

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.checks)


@dataclass(frozen=True)
class Study:
    """A claim and its experiment.

    Attributes:
      name: of the study on the command line and of its page.
      claim: what textbooks say, in their words.
      method: how it is measured here.
      sources: papers the claim or its correction comes from.
      run: the experiment, a function of the seeds and the size alone: `reduced` takes seconds (tests), `full` at most
        two minutes on 4 CPU cores, `long` as long as it needs.
    """

    name: str
    claim: str
    method: str
    sources: tuple[str, ...]
    run: Callable[[tuple[int, ...], Size], Result]
