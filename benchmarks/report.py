"""The tables of the decoding benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any


def report(record: Mapping[str, Any]) -> str:
    """What was measured, for people: models beside each other, then vitjax by beams with the step's floor."""
    setting, device = record["setting"], record["machine"]
    where = device["device"]
    if device["platform"] == "cpu":
        where = f"{device['processor']}, threads: {setting['threads']}"
    lines = [
        f"\n{where}, {setting['dtype']}, {record['parameters']:,} parameters, batch {setting['batch']}",
        "encode" + "".join(f"   {name} {ms:.1f} ms" for name, ms in record["encode_ms"].items()),
    ]
    steps = record["step_ms"]
    ours = {beams: step["median"] for beams, step in steps["vitjax"].items()}
    if len(steps) > 1:
        beside = setting["peer_beams"]
        titles = ["greedy" if beams == 1 else f"{beams} beams" for beams in beside]
        lines += ["", _line("ms a step, times vitjax", 24, titles, 17)]
        for name, step in steps.items():
            cells = [f"{step[beams]['median']:.2f} {step[beams]['times_vitjax']:7.2f}x" for beams in beside]
            lines.append(_line(name, 24, cells, 17))
    one = setting["beams"][0]
    lines += [
        f"\nvitjax by beams; its floor is the greater of reading at {record['bandwidth'] / 1e9:.1f} GB/s and computing",
        _line(
            "beams", 5, ["ms a step", f"x {one} beam", "reading", "computing", "GFLOP/s", "floor/step"], 12
        ),
    ]
    for beams, step in ours.items():
        floor = record["floor"][beams]
        reading, computing = floor["reading_ms"], floor["computing_ms"]
        cells = [
            f"{step:.2f}",
            f"{step / ours[one]:.2f}",
            f"{reading:.2f}",
            f"{computing:.2f}",
            f"{floor['operations_per_second'] / 1e9:.0f}",
            f"{max(reading, computing) / step:.0%}",
        ]
        lines.append(_line(f"{beams}", 5, cells, 12))
    apart = max(
        max(step["rounds"]) / min(step["rounds"]) for found in steps.values() for step in found.values()
    )
    lines.append(
        f"slowest round {apart:.2f} times the fastest{': a busy machine, measure again' * (apart > 1.3)}"
    )
    return "\n".join(lines)


def _line(name: str, width: int, cells: Sequence[str], cell_width: int) -> str:
    return f"{name:{width}}" + "".join(f"{cell:>{cell_width}}" for cell in cells)
