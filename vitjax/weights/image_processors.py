"""transformers' image processors and what they do to pixels, as a `Preprocess`.

Read from transformers 5.23: the class attributes of each processor (what a file leaves out), and its steps. Old files
say `ViTFeatureExtractor`, newer ones `ViTImageProcessor`, `...Fast` or `...Pil`: all of them mean the same pixels.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from vitjax.data.preprocess import Preprocess

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""In the order of Pillow's numbers."""
OVERSHOOTING = ("lanczos", "bicubic")

EVERY: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "default_to_square": True,
    "crop_size": {"height": 224, "width": 224},
}
SHORTEST: dict[str, Any] = {"size": {"shortest_edge": 224}, "default_to_square": False}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {**HALF, "size": 224, "resample": 2},
    "DeiT": {**HALF, "size": 256, "do_center_crop": True, "resample": 3},
    "Beit": {**HALF, "size": 224, "resample": 3},
    "Bit": {**CLIP, **SHORTEST, "do_center_crop": True, "resample": 3},
    "CLIP": {**CLIP, **SHORTEST, "do_center_crop": True, "resample": 3},
    "ConvNext": {**HALF, **SHORTEST, "size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 224 / 256},
    "DINOv3ViT": {**IMAGENET, "size": 224, "resample": 2},
    "Siglip": {**HALF, "size": {"height": 224, "width": 224}, "default_to_square": False, "resample": 3},
    "Siglip2": {**HALF, "size": None, "resample": 2, "patch_size": 16, "max_num_patches": 256},
    "Donut": {
        **HALF,
        "size": {"height": 2560, "width": 1920},
        "resample": 2,
        "do_thumbnail": True,
        "do_align_long_axis": False,
        "do_pad": True,
    },
}
"""What each processor does where its file does not say otherwise."""

BY_MODEL_TYPE = {
    "beit": "Beit",
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "data2vec-vision": "Beit",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "dinov3_vit": "DINOv3ViT",
    "donut-swin": "Donut",
    "resnet": "ConvNext",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "siglip2": "Siglip2",
    "siglip2_vision_model": "Siglip2",
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
}
"""The processor of a file that names none, by the `model_type` of config.json."""

CHANGES_NOTHING = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_convert_rgb",  # every image is brought to the channels of image_mean
    "do_reduce_labels",
    "reduce_labels",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "image_seq_length",
    "model_input_names",
    "pad_size",  # without do_pad
}
"""Options that are read by programs and leave pixels as they are; so do names that begin with an underscore."""


def read_image_processor(
    fields: Mapping[str, Any], *, where: str, model_type: str | None = None
) -> Preprocess:
    """What the processor of a preprocessor_config.json does.

    Args:
      fields: the file's content.
      where: the file's name, for errors.
      model_type: of the model beside it; names the processor if the file does not.

    Raises:
      ValueError: one line that names the processor or the option that vitjax does not follow to the pixel.
    """
    kind = _kind(fields, where, model_type)
    options = _Options({**EVERY, **PROCESSORS[kind]}, fields, where, f"{kind}ImageProcessor")
    shape: dict[str, Any]
    if kind == "Siglip2":
        shape = _patches(options)
    elif kind == "Donut":
        shape = _thumbnail(options)
    elif kind == "ConvNext":
        shape = _crop_pct(options)
    else:
        shape = _resize_and_crop(options)
    filter_name = options.filter()
    round_once = kind == "DINOv3ViT" and options.flag("do_rescale")
    if round_once and filter_name in OVERSHOOTING:
        options.refuse("resample", "bilinear (2): this processor keeps what overshoots white, 8 bits cannot")
    return Preprocess(**shape, **_scale(options), interpolation=filter_name, round_once=round_once)


class _Options:
    """The options of one file over their defaults; every complaint names file and option."""

    def __init__(self, defaults: dict[str, Any], fields: Mapping[str, Any], where: str, processor: str):
        self.values = {**defaults, **{name: value for name, value in fields.items() if value is not None}}
        self.where = where
        for name, value in self.values.items():
            passed_over = name in CHANGES_NOTHING or name.startswith("_") or value is False
            if name not in defaults and not passed_over:
                raise ValueError(
                    f"{where}: {name} is {value!r}: vitjax knows no such option of {processor}; take it out if it "
                    "leaves pixels as they are"
                )
        if self.flag("do_pad") and "do_thumbnail" not in defaults:
            self.refuse("do_pad", "false: vitjax pads as DonutImageProcessor does, and only there")

    def refuse(self, name: str, expected: str) -> NoReturn:
        raise ValueError(f"{self.where}: {name} is {self.values.get(name)!r}, expected {expected}")

    def flag(self, name: str) -> bool:
        if not isinstance(self.values[name], bool):
            self.refuse(name, "true or false")
        return self.values[name]

    def whole(self, name: str) -> int:
        if not _is_whole(self.values[name]):
            self.refuse(name, "a whole number above 0")
        return self.values[name]

    def number(self, name: str) -> float:
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self.refuse(name, "a number above 0")
        return float(value)

    def size(self, name: str, *, square: bool = True, reverse: bool = False) -> tuple[int, int] | int:
        """(height, width), or the shortest edge as one number. A list is (width, height) if `reverse`."""
        value = self.values[name]
        if _is_whole(value):
            return (value, value) if square else value
        if isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)):
            return (value[1], value[0]) if reverse else (value[0], value[1])
        if isinstance(value, dict):
            value = {side: pixels for side, pixels in value.items() if pixels is not None}
        if isinstance(value, dict) and all(map(_is_whole, value.values())):
            if set(value) == {"height", "width"}:
                return value["height"], value["width"]
            if set(value) == {"shortest_edge"}:
                return value["shortest_edge"]
        self.refuse(name, "a whole number, {height, width} or {shortest_edge}")

    def exact_size(self, name: str, *, reverse: bool = False) -> tuple[int, int]:
        size = self.size(name, reverse=reverse)
        if isinstance(size, int):
            self.refuse(name, "{height, width}")
        return size

    def filter(self) -> Any:
        number = self.values["resample"]
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(FILTERS):
            self.refuse("resample", "a filter of Pillow's, 0 to 5")
        return FILTERS[number]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _kind(fields: Mapping[str, Any], where: str, model_type: str | None) -> str:
    name = fields.get("image_processor_type") or fields.get("feature_extractor_type")
    if name is None:
        if model_type not in BY_MODEL_TYPE:
            raise ValueError(
                f"{where}: no image_processor_type, and none is known for model_type {model_type!r}: add one of "
                f"{_known()}"
            )
        return BY_MODEL_TYPE[model_type]
    kind = str(name).removesuffix("Fast").removesuffix("Pil")
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in PROCESSORS:
        raise ValueError(
            f"{where}: image_processor_type is {name!r}: vitjax follows to the pixel only {_known()}"
        )
    return kind


def _known() -> str:
    return ", ".join(f"{kind}ImageProcessor" for kind in PROCESSORS)


def _resize_and_crop(options: _Options) -> dict[str, Any]:
    cut = options.exact_size("crop_size") if options.flag("do_center_crop") else None
    if not options.flag("do_resize"):
        if cut is None:
            options.refuse("do_resize", "true, or do_center_crop: else each image keeps a size of its own")
        return {"resize": "none", "image_size": cut, "middle": "down"}
    size = options.size("size", square=options.flag("default_to_square"))
    if isinstance(size, int):
        if cut is None:
            options.refuse(
                "do_center_crop", "true beside size.shortest_edge: else no two images are one size"
            )
        return _cut("crop", (size, size), cut)
    return _cut("stretch", size, cut or size)


def _crop_pct(options: _Options) -> dict[str, Any]:
    """ConvNext's: up to 383 pixels the middle `crop_pct` is cut out, from 384 on the whole image is stretched."""
    side = options.size("size", square=options.flag("default_to_square"))
    if not isinstance(side, int):
        options.refuse("size", "{shortest_edge}")
    if not options.flag("do_resize"):
        options.refuse("do_resize", "true")
    if options.flag("do_center_crop") and options.exact_size("crop_size") != (side, side):
        options.refuse("do_center_crop", f"false, or crop_size {side}, which is what crop_pct cuts out")
    if side >= 384:
        return {"resize": "stretch", "image_size": (side, side), "middle": "down"}
    before = int(side / options.number("crop_pct"))
    return _cut("crop", (before, before), (side, side))


def _cut(resize: str, before: tuple[int, int], after: tuple[int, int]) -> dict[str, Any]:
    return {
        "resize": resize,
        "image_size": after,
        "resize_size": before if before != after else None,
        "middle": "down",
    }


def _thumbnail(options: _Options) -> dict[str, Any]:
    for name in ("do_resize", "do_thumbnail", "do_pad"):
        if not options.flag(name):
            options.refuse(name, "true")
    if options.flag("do_center_crop"):
        options.refuse("do_center_crop", "false")
    if options.filter() == "nearest":
        options.refuse("resample", "1 to 5: transformers takes 0 here for none and makes thumbnails bicubic")
    return {
        "resize": "thumbnail",
        "image_size": options.exact_size("size", reverse=True),
        "align_long_axis": options.flag("do_align_long_axis"),
    }


def _patches(options: _Options) -> dict[str, Any]:
    if not options.flag("do_resize"):
        options.refuse("do_resize", "true")
    patch_size, patches = options.whole("patch_size"), options.whole("max_num_patches")
    side = math.isqrt(patches) * patch_size
    return {
        "resize": "patches",
        "image_size": (side, side),
        "patch_size": patch_size,
        "max_patches": patches,
    }


def _scale(options: _Options) -> dict[str, Any]:
    """Channels, mean and std; a factor other than 1 / 255 goes into mean and std."""
    mean, std = ([0.0] * 3, [1.0] * 3)
    if options.flag("do_normalize"):
        mean, std = (_channels(options, name) for name in ("image_mean", "image_std"))
        if len(mean) != len(std):
            options.refuse("image_std", f"{len(mean)} values, as image_mean has")
        if min(std) <= 0:
            options.refuse("image_std", "values above 0")
    factor = 255 * (options.number("rescale_factor") if options.flag("do_rescale") else 1.0)
    if not math.isclose(factor, 1.0, rel_tol=1e-6):
        mean, std = [value / factor for value in mean], [value / factor for value in std]
    return {"channels": len(mean), "mean": tuple(mean), "std": tuple(std)}


def _channels(options: _Options, name: str) -> list[float]:
    value = options.values[name]
    values = value if isinstance(value, list) else [value] * 3
    if len(values) not in (1, 3) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        options.refuse(name, "one number for each of 3 channels, or of 1 (grey)")
    return [float(v) for v in values]
