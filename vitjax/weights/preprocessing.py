"""The preprocessing that lies beside a checkpoint: transformers' and timm's files, read and written."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from vitjax.data.config import Interpolation
from vitjax.data.preprocess import Preprocess
from vitjax.data.resize import share
from vitjax.weights.checkpoint import read_json
from vitjax.weights.image_processors import read_image_processor, write_image_processor


def read_preprocessing(folder: str | Path) -> Preprocess | None:
    """What a checkpoint's folder says about its images; None if it says nothing.

    In the order in which transformers looks: `pretrained_cfg` in timm's config.json, `image_processor` in
    processor_config.json, preprocessor_config.json.

    Raises:
      ValueError: one line that names the file and what in it cannot be read or followed to the pixel.
    """
    folder = Path(folder)
    config = _object(folder / "config.json") or {}
    if (pretrained := _timm_part(config)) is not None:
        return read_timm(pretrained, where=str(folder / "config.json"))
    file = folder / "processor_config.json"
    fields = (_object(file) or {}).get("image_processor")
    if fields is None:
        file = folder / "preprocessor_config.json"
        fields = _object(file)
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise ValueError(f"{file}: image_processor is {fields!r}, expected the fields of an image processor")
    return read_image_processor(fields, where=str(file), model_type=config.get("model_type"))


def write_preprocessing(preprocess: Preprocess, folder: str | Path) -> tuple[str, ...]:
    """Write the preprocessor_config.json from which transformers makes the same pixels.

    Returns:
      A line for each way in which they will not be quite the same; mostly none.

    Raises:
      ValueError: no image processor of transformers comes near.
    """
    fields, differences = write_image_processor(preprocess)
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (Path(folder) / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return differences


def read_timm(fields: Mapping[str, Any], *, where: str) -> Preprocess:
    """What timm's evaluation does under a `pretrained_cfg`; the fields it leaves out are timm's defaults.

    Raises:
      ValueError: one line that names the field whose value makes no sense.
    """

    def refuse(name: str, expected: str) -> ValueError:
        return ValueError(f"{where}: pretrained_cfg.{name} is {fields.get(name)!r}, expected {expected}")

    def numbers(name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        values = fields.get(name) or default
        if not isinstance(values, list | tuple) or not all(_is_number(value) for value in values):
            raise refuse(name, "a list of numbers")
        return tuple(float(value) for value in values)

    size = fields.get("input_size") or (3, 224, 224)
    if (
        not isinstance(size, list | tuple)
        or len(size) != 3
        or not all(isinstance(n, int) and n > 0 for n in size)
    ):
        raise refuse("input_size", "[channels, height, width]")
    channels, height, width = size
    interpolation: Any = fields.get("interpolation") or "bicubic"
    if interpolation not in get_args(Interpolation):
        raise refuse("interpolation", ", ".join(get_args(Interpolation)))
    kept = fields.get("crop_pct") or 0.875
    if not _is_number(kept) or not kept > 0:
        raise refuse("crop_pct", "a number above 0")
    mode = fields.get("crop_mode") or "center"
    ways = {"center": "crop", "squash": "stretch", "border": "fit"}
    if mode not in ways:
        raise refuse("crop_mode", ", ".join(ways))
    mean = numbers("mean", (0.485, 0.456, 0.406))
    before = math.floor(height / kept), math.floor(width / kept)
    try:
        return Preprocess(
            image_size=(height, width),
            channels=channels,
            mean=mean,
            std=numbers("std", (0.229, 0.224, 0.225)),
            resize=ways[mode],  # type: ignore[arg-type]
            resize_size=before if before != (height, width) else None,
            interpolation=interpolation,
            fill=tuple(round(255 * value) for value in mean) if mode == "border" else (0,),
        )
    except ValueError as error:
        raise ValueError(f"{where}: pretrained_cfg: {error}") from None


def timm_fields(preprocess: Preprocess) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a `pretrained_cfg` that do the same, and a line for each way in which they do not quite.

    Raises:
      ValueError: timm's evaluation does nothing that comes near.
    """
    p = preprocess
    modes = {"crop": "center", "stretch": "squash", "fit": "border"}
    (height, width), before = p.image_size, p.resize_size or p.image_size
    kept = share(height, before[0])
    if p.resize not in modes or p.align_long_axis or math.floor(width / kept) != before[1]:
        raise ValueError(
            f"preprocessing brings images to {before[0]} x {before[1]} by {p.resize!r} and then to {height} x {width}: "
            f"timm knows {', '.join(modes)} to the same fraction of both sides"
        )
    mean, std = (list(values) * (p.channels // len(values)) for values in (p.mean, p.std))
    fields = {
        "input_size": [p.channels, height, width],
        "interpolation": p.interpolation,
        "crop_pct": kept,
        "crop_mode": modes[p.resize],
        "mean": mean,
        "std": std,
    }
    lines = []
    if p.middle == "down" and p.resize != "fit" and (p.resize == "crop" or before != p.image_size):
        lines.append(
            "timm cuts the middle out one pixel lower or further right if an odd number is left over"
        )
    if p.resize == "fit" and list(p.fill) * (p.channels // len(p.fill)) != [round(255 * m) for m in mean]:
        lines.append(f"timm pads with the mean, not with {p.fill}")
    if p.round_once:
        lines.append("timm rounds a resize after each direction: up to 1/255 apart")
    return fields, tuple(lines)


def _timm_part(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """timm's `pretrained_cfg`; in its oldest files the fields lie beside `architecture`."""
    part = config.get("pretrained_cfg")
    if part is None and "architecture" in config and "input_size" in config:
        return dict(config)
    return part if isinstance(part, dict) else None


def _object(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
