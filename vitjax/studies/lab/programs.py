"""Compiled programs: what they compute and keep, and times that can be compared."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

from vitjax.studies.lab.devices import on_cores
from vitjax.studies.lab.study import Spread

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Program:
    """A compiled program with what it is called with at each seed; one tuple of arguments: at all.

    Attributes:
      devices: that it runs over.
    """

    compiled: Any
    arguments: tuple[tuple, ...]
    devices: int = 1

    @classmethod
    def of(cls, function: Callable[..., Any], *arguments: tuple, devices: int = 1) -> "Program":
        """Compile a function for the arguments of one seed; those of the others must have the same shapes."""
        return cls(jax.jit(function).lower(*arguments[0]).compile(), arguments, devices)

    def __call__(self, seed: int = 0) -> Any:
        """What comes out at the seed in this place."""
        return self.compiled(*self.arguments[seed if len(self.arguments) > 1 else 0])

    @property
    def flops(self) -> float:
        """Operations of a device by XLA's count, where the body of a loop counts once."""
        return self.compiled.cost_analysis()["flops"]

    @property
    def transcendentals(self) -> float:
        """Such as exp and tanh, which `flops` leaves out."""
        return self.compiled.cost_analysis()["transcendentals"]

    @property
    def memory(self) -> int:
        """Bytes beside arguments and results, but for what operations that XLA makes one of keep inside."""
        return self.compiled.memory_analysis().temp_size_in_bytes


def seconds(
    programs: Mapping[Key, Callable[[int], Any]], seeds: int, *, rounds: int = 5, least: float = 2e-3
) -> dict[Key, Spread]:
    """Seconds that each program takes at each seed: the shortest of `rounds` in which all take turns.

    What else the machine does only ever adds to a turn. A call before, which may compile, is not counted. On a CPU, a
    `Program` over n devices runs on n cores, others on all.

    Args:
      programs: called with the place of the seed.
      least: seconds that a turn lasts: faster programs run several times in a turn.
    """

    def turn(run: Callable[[int], Any], seed: int, calls: int) -> float:
        with on_cores(run.devices if isinstance(run, Program) else None):
            jax.block_until_ready(run(seed))  # the caches are another program's
            start = time.perf_counter()
            for _ in range(calls):
                out = run(seed)
            jax.block_until_ready(out)
            return (time.perf_counter() - start) / calls

    calls = {key: max(1, round(least / turn(run, 0, 1))) for key, run in programs.items()}
    found: dict[Key, list[float]] = {key: [] for key in programs}
    for seed in range(seeds):
        turns: dict[Key, list[float]] = {key: [] for key in programs}
        for _ in range(rounds):
            for key, run in programs.items():
                turns[key].append(turn(run, seed, calls[key]))
        for key, values in turns.items():
            found[key].append(min(values))
    return {key: Spread.of(values) for key, values in found.items()}
