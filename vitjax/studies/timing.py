"""Times that can be compared: programs that take turns, and the shortest of their turns."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax

from vitjax.studies.study import Spread

Key = TypeVar("Key", bound=Hashable)


def seconds(
    programs: Mapping[Key, Callable[[], Any]], repeats: int, *, rounds: int = 5, least: float = 2e-3
) -> dict[Key, Spread]:
    """Seconds of each program, as many as `repeats`: each time the shortest of `rounds` in which all take turns.

    What else the machine does only ever adds to a turn. The first call, which may compile, is not counted.

    Args:
      least: seconds that a turn lasts: faster programs run several times in a turn.
    """
    calls = {}
    for key, run in programs.items():
        jax.block_until_ready(run())
        calls[key] = max(1, round(least / _timed(run, 1)))
    found: dict[Key, list[float]] = {key: [] for key in programs}
    for _ in range(repeats):
        turns: dict[Key, list[float]] = {key: [] for key in programs}
        for _ in range(rounds):
            for key, run in programs.items():
                turns[key].append(_timed(run, calls[key]))
        for key, values in turns.items():
            found[key].append(min(values))
    return {key: Spread.of(values) for key, values in found.items()}


def _timed(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        out = run()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / calls
