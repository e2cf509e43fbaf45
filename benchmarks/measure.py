"""Timing on a noisy machine: variants in turn, medians, and a record of what they ran on."""

import datetime
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax

RESULTS = Path(__file__).parent / "results"


def alternately(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, all of them once a round, so that a slow minute slows them all."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> dict[str, Any]:
    """Device, versions and date of a result."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "date": datetime.date.today().isoformat(),
    }


def write(name: str, record: dict[str, Any]) -> Path:
    """Store a result under the benchmark's and the device's name."""
    device = re.sub(r"[^a-z0-9]+", "-", record["machine"]["device"].lower()).strip("-")
    path = RESULTS / f"{name}_{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
