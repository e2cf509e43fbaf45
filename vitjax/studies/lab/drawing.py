"""How figures of studies look: one style, axis labels with units, the spread over seeds as a band."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from vitjax.studies.lab.study import Result, Spread

COLORS = ("#22313f", "#c0392b", "#1a7f5a", "#b9770e", "#6c3483", "#2471a3")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
SIZE, DPI = (8.0, 3.6), 110  # inches; two panels side by side


def curve(
    axes: Any,
    x: Sequence[int | float],
    spreads: Sequence[Spread],
    label: str,
    place: int,
    *,
    hollow: bool = False,
) -> None:
    """A line through the means with a band from the lowest to the highest seed.

    Args:
      place: chooses colour and dashes.
      hollow: thinner, with hollow marks: of the same thing in another case.
    """
    color = COLORS[place % len(COLORS)]
    style = STYLES[place % len(STYLES)]
    means = [spread.mean for spread in spreads]
    marks: dict[str, Any] = {"lw": 1.0, "mfc": "white", "ms": 5} if hollow else {"lw": 1.6, "ms": 3}
    axes.plot(x, means, color=color, ls=style, marker="o", label=label, **marks)
    lows, highs = [spread.low for spread in spreads], [spread.high for spread in spreads]
    axes.fill_between(x, lows, highs, color=color, alpha=0.18, lw=0)


def panel(
    axes: Any,
    x: Sequence[int | float],
    curves: Mapping[str, Sequence[Spread]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    log: str = "",
    base: int = 10,
    names: Sequence[str] = (),
    hollow: Mapping[str, Sequence[Spread]] | None = None,
    legend: str | None = "best",
    **options: Any,
) -> None:
    """Fill axes with curves over the same `x`; labels name what they measure with its unit in brackets.

    Args:
      curves: by the name each has in the legend.
      log: "x", "y" or "xy": logarithmic axes; that of x is marked at every x.
      names: of all curves of the figure, where a panel shows some: those of a name look alike in all panels.
      hollow: some of the curves in another case, with hollow marks; not in the legend.
      legend: its place; "above": higher than all curves; None: another panel has it.
      options: of `axes.set`.
    """
    names = names or list(curves)
    for name, spreads in curves.items():
        curve(axes, x, spreads, name, names.index(name))
    for name, spreads in (hollow or {}).items():
        curve(axes, x, spreads, "_", names.index(name), hollow=True)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.locator_params(axis="x", integer=all(isinstance(each, int) for each in x))
    if "y" in log:
        axes.set_yscale("log")
    if "x" in log:
        axes.set_xscale("log", base=base)
        axes.set_xticks(x, [f"{each:,}" for each in x])
        axes.set_xticks([], minor=True)
    axes.set(**options)
    if legend == "above":
        scale = axes.yaxis.get_transform()
        low, high = scale.transform(axes.get_ylim())
        axes.set_ylim(top=scale.inverted().transform(low + (high - low) / (0.98 - 0.06 * len(curves))))
    if legend and len(curves) > 1:
        axes.legend(loc="upper left" if legend == "above" else legend)


def bars(
    axes: Any,
    groups: Sequence[str],
    heights: Mapping[str, Sequence[Spread]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    names: Sequence[str] = (),
    legend: str | None = "best",
    **options: Any,
) -> None:
    """Fill axes with groups of bars, on each a line from the lowest to the highest seed.

    Args:
      groups: what stands below each.
      heights: one in each group, by the name it has in the legend.
      names, legend, options: as those of `panel`.
    """
    names, width = names or list(heights), 0.8 / len(heights)
    for place, (name, spreads) in enumerate(heights.items()):
        x = [group + width * (place - (len(heights) - 1) / 2) for group in range(len(groups))]
        color = COLORS[names.index(name) % len(COLORS)]
        axes.bar(x, [spread.mean for spread in spreads], 0.9 * width, color=color, label=name)
        axes.vlines(
            x, [spread.low for spread in spreads], [spread.high for spread in spreads], "#888888", lw=2
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, **options)
    if legend and len(heights) > 1:
        axes.legend(loc=legend)


def save(result: Result, path: str | Path) -> None:
    """Draw the figure of a result into a PNG."""
    with rc_context({"font.size": 9, "axes.titlesize": 9.5, "legend.frameon": False, "legend.fontsize": 8}):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        result.draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.2)
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:  # a drawing has few colours: a third of the bytes
        few = picture.convert("RGB").quantize(96, method=Image.Quantize.FASTOCTREE)
    few.save(path, format="png", optimize=True)
