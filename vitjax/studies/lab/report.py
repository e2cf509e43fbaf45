"""Running a study: what came out, how long it took and on what, as a record, as text and as files."""

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import vitjax
from vitjax.studies.lab.drawing import save
from vitjax.studies.lab.study import RULE, Cell, Check, Result, Size, Spread, Study

LEAST_SEEDS = 3


@dataclass(frozen=True)
class Report:
    """A result with the circumstances under which it was measured."""

    study: Study
    result: Result
    seeds: tuple[int, ...]
    size: Size
    seconds: float

    @property
    def command(self) -> str:
        """What to type to measure it again."""
        size = "" if self.size == "full" else f" --{self.size}"
        return f"vitjax study {self.study.name} --seeds {len(self.seeds)}{size}"


def measure(study: Study, num_seeds: int = LEAST_SEEDS, size: Size = "full") -> Report:
    """Run a study with seeds 0, 1, ...; ValueError for too few to see a spread."""
    if num_seeds < LEAST_SEEDS:
        raise ValueError(f"--seeds {num_seeds}: expected {LEAST_SEEDS} or more, for fewer show no spread")
    seeds = tuple(range(num_seeds))
    start = time.perf_counter()
    result = study.run(seeds, size)
    return Report(study, result, seeds, size, time.perf_counter() - start)


def record(report: Report) -> dict[str, Any]:
    """Everything about a report but the figure, ready for JSON."""
    study, result = report.study, report.result
    return {
        "name": study.name,
        "claim": study.claim,
        "verdict": result.verdict,
        "finding": result.finding,
        "method": study.method,
        "rule": RULE,
        "checks": [_check(check) for check in result.checks],
        "table": {
            "columns": list(result.table.columns),
            "rows": [[_cell(cell) for cell in row] for row in result.table.rows],
        },
        "caption": result.caption,
        "sources": list(study.sources),
        "command": report.command,
        "seeds": list(report.seeds),
        "seconds": round(report.seconds, 1),
        "device": device(),
        "versions": {"vitjax": vitjax.__version__, "python": platform.python_version()}
        | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }


def write(report: Report, directory: str | Path) -> dict[str, Any]:
    """NAME.json and NAME.png of a report; returns the record."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found = record(report)
    save(report.result, directory / f"{report.study.name}.png")
    (directory / f"{report.study.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def in_words(found: dict[str, Any]) -> str:
    """A record for the terminal: claim, measurement, verdict."""
    rows = [found["table"]["columns"]] + [[shown(cell) for cell in row] for row in found["table"]["rows"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    checks = [
        f"  [{'x' if check['passed'] else ' '}] {check['statement']}: {shown(check['measured'])} {check['unit']} "
        f"({check['bounds']})"
        for check in found["checks"]
    ]
    return "\n".join(
        [
            f"{found['name']}: {found['verdict'].upper()}",
            f"claim: {found['claim']}",
            *table,
            *checks,
            found["finding"],
            f"{found['seconds']:.0f} s on {found['device']}, {len(found['seeds'])} seeds",
        ]
    )


def shown(cell: Any) -> str:
    """A cell of a record as people read it: a spread is its mean with the lowest and the highest seed."""
    value, *spread = parts(cell)
    return value + "".join(f" ({part})" for part in spread)


def parts(cell: Any) -> list[str]:
    """What `shown` puts together: the value and, where seeds differ, "lowest to highest"."""
    if not isinstance(cell, dict):
        return [cell if isinstance(cell, str) else number(cell)]
    low, high = number(cell["low"]), number(cell["high"])
    return [number(cell["mean"])] + ([f"{low} to {high}"] if low != high else [])


def number(value: int | float) -> str:
    """Three significant digits, integers in full."""
    if isinstance(value, int) or (abs(value) < 1e6 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def code_of(study: Study) -> tuple[str, str]:
    """Name and text of the experiment's file."""
    path = Path(str(sys.modules[study.run.__module__].__file__))
    return path.name, path.read_text()


def device() -> str:
    """Of what kind and how many, in words."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{jax.device_count()} x {first.device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU ({platform.machine()}), {cores} cores"


def _check(check: Check) -> dict[str, Any]:
    return {
        "statement": check.statement,
        "measured": _cell(check.measured),
        "unit": check.unit,
        "bounds": check.bounds,
        "essential": check.essential,
        "passed": check.passed,
    }


def _cell(cell: Cell) -> Any:
    if isinstance(cell, Spread):
        return {**asdict(cell), "mean": cell.mean, "low": cell.low, "high": cell.high}
    return cell
