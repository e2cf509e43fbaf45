"""Pictures of a run: its loss, what it reads, and where it looked for each character."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from PIL.Image import Resampling

from vitjax.data.resize import to_pil
from vitjax.nn.positions import Grid

INK, RIGHT, WRONG, WARM = "#22313f", "#1a7f5a", "#c0392b", "inferno"
# Of `draw_attention`, in pixels:
DPI, HEADLINE, LABEL, GAP, CHARACTER = 100, 34, 22, 10, 10
PANEL_AREA, PANEL_SIDES, MIN_CELL, WIDEST = 160 * 160, (40, 480), 60, 1600


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


def draw_attention(
    path: str | Path,
    image: UInt8[np.ndarray, "H W C"],
    pieces: Sequence[str],
    maps: Float[np.ndarray, "U h w"],
) -> None:
    """Where the decoder looked in one image when it wrote each token: a panel a token, in rows like text.

    With `out = model.generate(images, return_attention=True)`:
    `draw_attention("where.png", images[b], out.pieces()[b][n], np.asarray(out.attention_maps()[b, n]))`.

    Args:
      image: of any size; the maps are stretched over it.
      pieces: what each token says; "" for one that says nothing, such as the end.
      maps: weights over the encoder's grid for each token, shown relative to the token's largest; those behind the
        last piece are left out.

    Raises:
      OSError: the picture cannot be written.
    """
    title = "".join(pieces).strip() or "(nothing)"
    draw_maps(path, image, maps[: len(pieces)], list(map(_label, pieces)), title=title)


def draw_maps(
    path: str | Path,
    image: UInt8[np.ndarray, "H W C"],
    maps: Float[np.ndarray, "U h w"],
    labels: Sequence[str],
    *,
    title: str,
) -> None:
    """An image, and beside it each of its maps over it, shown relative to its largest number, with its label above.

    Args:
      image: of any size; the maps are stretched over it.
      title: above all of them.

    Raises:
      OSError: the picture cannot be written.
    """
    height, width = _panel_size(*image.shape[:2])
    picture = to_pil(image).convert("RGB").resize((width, height), Resampling.LANCZOS)
    plain = np.asarray(picture, np.float32) / 255
    grey = plain.mean(axis=-1, keepdims=True)
    panels = [plain, *(_heated(grey, weights) for weights in maps)]

    cell_height, cell_width = LABEL + height + GAP, max(width, MIN_CELL) + GAP
    columns = _columns(len(panels), cell_height, cell_width)
    rows = -(-len(panels) // columns)
    canvas = np.ones((HEADLINE + rows * cell_height, GAP + columns * cell_width, 3), np.float32)
    figure = Figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    style: dict[str, Any] = {"va": "center", "color": INK, "family": "monospace", "parse_math": False}
    for place, (panel, label) in enumerate(zip(panels, ["", *labels], strict=True)):
        row, column = divmod(place, columns)
        top, center = (
            HEADLINE + row * cell_height + LABEL,
            GAP + column * cell_width + (cell_width - GAP) // 2,
        )
        left = center - width // 2
        canvas[top : top + height, left : left + width] = panel
        label = _cut(label, cell_width // CHARACTER)
        axes.text(center, top - LABEL / 2, label, ha="center", fontsize=10, **style)
    axes.text(GAP, HEADLINE / 2, _cut(title, canvas.shape[1] // CHARACTER - 2), fontsize=12, **style)
    axes.imshow(canvas, interpolation="none", aspect="auto")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        figure.savefig(path, format="png")


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """Pixels of a panel: the same area for any shape; very long ones are widened."""
    scale = (PANEL_AREA / (height * width)) ** 0.5
    least, most = PANEL_SIDES
    return min(max(round(height * scale), least), most), min(max(round(width * scale), least), most)


def _columns(count: int, cell_height: int, cell_width: int) -> int:
    """As many as make the picture about 3 : 2, and no wider than `WIDEST`."""
    wanted = round((1.5 * count * cell_height / cell_width) ** 0.5)
    return max(1, min(wanted, count, WIDEST // cell_width))


def _heated(
    grey: Float[np.ndarray, "H W 1"], weights: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "H W 3"]:
    """A darkened grey picture under a heat map, which covers it the more the larger the weight."""
    height, width = grey.shape[:2]
    scaled = Image.fromarray(np.asarray(weights, np.float32)).resize((width, height), Resampling.BICUBIC)
    heat = np.clip(np.asarray(scaled) / max(float(weights.max()), 1e-9), 0, 1)
    cover = (0.6 * heat**0.5)[..., None]
    return (1 - cover) * 0.65 * grey + cover * colormaps[WARM](heat)[..., :3].astype(np.float32)


def _label(piece: str) -> str:
    return "(end)" if not piece else piece.strip() or "\N{OPEN BOX}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def _show(axes: Any, image: UInt8[np.ndarray, "H W C"]) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
