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
from vitjax.weights.image_processors import FILTERS, read_image_processor


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


def write_image_processor(preprocess: Preprocess) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a preprocessor_config.json that do the same, and a line for each way in which they do not quite.

    Raises:
      ValueError: no image processor of transformers comes near.
    """
    p = preprocess
    before, after = p.resize_size or p.image_size, p.image_size
    if p.resize == "fit" or (p.align_long_axis and p.resize != "thumbnail"):
        what = "pads what fits inside" if p.resize == "fit" else "turns images without a thumbnail"
        raise ValueError(
            f"preprocessing {what}: no image processor of transformers does; change it with "
            "dataclasses.replace(preprocess, ...)"
        )
    if p.resize == "crop" and before[0] != before[1]:
        raise ValueError(
            f"preprocessing covers {before[0]} x {before[1]}: transformers knows only a shortest edge; make "
            "resize_size square with dataclasses.replace(preprocess, ...)"
        )
    fields: dict[str, Any] = {
        "do_resize": p.resize != "none",
        "resample": FILTERS.index(p.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean) * (p.channels // len(p.mean)),
        "image_std": list(p.std) * (p.channels // len(p.std)),
        "do_convert_rgb": p.channels == 3,
    }
    cut = {"do_center_crop": True, "crop_size": _height_width(after)}
    match p.resize:
        case "patches":
            kind = "Siglip2"
            fields |= {"patch_size": p.patch_size, "max_num_patches": p.max_patches}
        case "thumbnail":
            kind = "Donut"
            fields |= {"size": _height_width(after), "do_thumbnail": True, "do_pad": True}
            fields |= {"do_align_long_axis": p.align_long_axis}
        case "stretch" if before == after:
            kind = "ViT"
            fields |= {"size": _height_width(after)}
        case "stretch":
            kind = "DeiT"
            fields |= {"size": _height_width(before), **cut}
        case _:
            kind = "Bit"
            fields |= {"size": {"shortest_edge": before[0]}, **cut}
    if p.round_once and kind in ("ViT", "DeiT", "Bit"):
        kind = "DINOv3ViT"
    # That processor has had no name but this one in transformers 4.
    fields["image_processor_type"] = f"{kind}ImageProcessor" + ("Fast" if kind == "DINOv3ViT" else "")
    return fields, _differences(p)


def _height_width(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _differences(p: Preprocess) -> tuple[str, ...]:
    before, after = p.resize_size or p.image_size, p.image_size
    left_over = [have - want for have, want in zip(before, after, strict=True)]
    same_middle = p.resize in ("patches", "thumbnail") or (
        p.resize == "stretch" and all(over >= 0 and round(over / 2) == over // 2 for over in left_over)
    )
    padded = p.resize in ("thumbnail", "none") or (p.resize != "patches" and min(left_over) < 0)
    lines = []
    if (p.middle == "even" and not same_middle) or (p.middle == "down" and p.resize == "thumbnail"):
        lines.append(
            "transformers cuts the middle out one pixel higher or further left if an odd number is left over"
        )
    if padded and set(p.fill) != {0}:
        lines.append(f"transformers pads with black, not with {p.fill}")
    if p.channels == 1:
        lines.append("transformers does not turn colour into grey: its processor takes grey images alone")
    if p.round_once and p.resize in ("patches", "thumbnail"):
        lines.append("transformers rounds this resize after each direction: up to 1/255 apart")
    return tuple(lines)


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
    if not isinstance(mode, str) or mode not in ways:
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
