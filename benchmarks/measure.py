"""Timing on a noisy machine: variants in turn, medians, and a record of what they ran on."""

import datetime
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax

RESULTS = Path(__file__).parent / "results"


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, all of them once a round, so that a slow minute slows them all."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def alternately(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, taken `in_turn`."""
    return {name: statistics.median(values) for name, values in in_turn(calls, rounds).items()}


def cores() -> list[int]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to(threads: int) -> None:
    """Run on this many cores, the last of those allowed; XLA on CPU starts as many threads as there are cores.

    Before JAX's first array and torch's first operation.

    Raises:
      SystemExit: fewer cores, or a system that cannot tie a process to some of them.
    """
    allowed = cores()
    if threads == len(allowed):
        return
    if threads > len(allowed):
        raise SystemExit(f"--threads {threads}: this process may run on {len(allowed)} cores")
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit(
            f"--threads {threads}: this system cannot tie a process to some of its cores, use all"
        )
    os.sched_setaffinity(0, allowed[-threads:])


def machine() -> dict[str, Any]:
    """Device, versions and date of a result."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(cores()),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        **{name: sys.modules[name].__version__ for name in ("torch", "transformers") if name in sys.modules},
        "date": datetime.date.today().isoformat(),
    }


def write(name: str, record: dict[str, Any], *setting: str, folder: Path = RESULTS) -> Path:
    """Store a result under the benchmark's and the device's name, and the setting where there are several."""
    words = (record["machine"]["device"], *setting)
    parts = [re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words]
    path = folder / f"{'_'.join([name, *parts])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _processor() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
