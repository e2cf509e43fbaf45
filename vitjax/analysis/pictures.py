"""Pictures of a run: its loss, what it reads, and where it looked for each character."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from vitjax.nn.positions import Grid

INK, RIGHT, WRONG, WARM = "#22313f", "#1a7f5a", "#c0392b", "inferno"


@runtime_checkable
class ImageEncoder(Protocol):
    """What a picture asks of an encoder's config."""

    def grid(self, image_size: tuple[int, int]) -> Grid: ...


def draw_loss(path: str | Path, metrics: str | Path) -> None:
    """Training and evaluation loss, and the score of each evaluation, from a run's `metrics.jsonl`."""
    records = [json.loads(line) for line in Path(metrics).read_text().splitlines()]
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    losses, scores = figure.subplots(1, 2)
    for phase, label, color in (("train", "training, as optimised", INK), ("eval", "held out", WRONG)):
        points = [(r["step"], r["loss"]) for r in records if r["phase"] == phase and r["loss"] is not None]
        if points:
            losses.plot(*zip(*points, strict=True), color=color, label=label, lw=1.4)
    losses.set(xlabel="step", ylabel="cross-entropy (nats)", title="loss")
    losses.legend(frameon=False)
    for name, label in (("exact_match", "whole strings right"), ("accuracy", "accuracy")):
        points = [(r["step"], r[name]) for r in records if r["phase"] == "eval" and r.get(name) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            scores.plot(steps, [100 * value for value in values], color=RIGHT, marker="o", ms=3, label=label)
            scores.set(xlabel="step", ylabel=f"{label} (%)", title="held-out data", ylim=(0, 101))
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(path)


def draw_transcriptions(
    path: str | Path,
    images: UInt8[np.ndarray, "B H W C"],
    predictions: Sequence[str],
    references: Sequence[str],
) -> None:
    """Images with what was read in them: green where it is right, red with the truth where it is not."""
    columns = 4
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 1.0 * rows), layout="constrained", dpi=120)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, read, truth in zip(grid, images, predictions, references, strict=False):
        _show(axes, image)
        right = read == truth
        title = read if right else f"{read}  (is {truth})"
        axes.set_title(title, color=RIGHT if right else WRONG, fontsize=10, family="monospace", pad=3)
    figure.savefig(path)


def draw_reading(
    path: str | Path,
    images: UInt8[np.ndarray, "B H W C"],
    texts: Sequence[str],
    attention: Float[np.ndarray, "B U S"],
    encoder: ImageEncoder,
) -> None:
    """For each character of each text, where the decoder looked when it wrote it.

    Args:
      attention: weights over the encoder's S tokens for each written token, prompt of one token left out; tokens before
        the grid of patches (class token, registers) are dropped.
    """
    size = images.shape[1:3]
    grid = encoder.grid(size)
    maps = attention[:, :, -grid[0] * grid[1] :].reshape(*attention.shape[:2], *grid)
    rows = 1 + max(1, *map(len, texts))
    aspect = size[0] / size[1]
    width = 3.0
    figure = Figure(
        figsize=(width * len(images), rows * (width * aspect + 0.12) + 0.4), layout="constrained", dpi=120
    )
    panels = figure.subplots(rows, len(images), squeeze=False)
    for axes in panels.ravel():
        axes.axis("off")
    for column, (image, text) in enumerate(zip(images, texts, strict=True)):
        _show(panels[0, column], image)
        panels[0, column].set_title(text or "(nothing)", color=INK, fontsize=12, family="monospace")
        for place, character in enumerate(text):
            axes = panels[1 + place, column]
            _show(axes, image)
            axes.imshow(
                maps[column, place],
                extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
                cmap=WARM,
                alpha=0.65,
                interpolation="bilinear",
                aspect="auto",
                vmin=0,
            )
            axes.text(
                -0.02, 0.5, character, transform=axes.transAxes, ha="right", va="center", family="monospace"
            )
    figure.savefig(path)


def _show(axes: Any, image: UInt8[np.ndarray, "H W C"]) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
