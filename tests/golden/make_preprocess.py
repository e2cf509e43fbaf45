"""Make preprocess/: tiny images, and what the image processors of transformers and timm make of them.

    python tests/golden/make_preprocess.py        # needs torch, torchvision, transformers and timm, nothing of vitjax

transformers has two sets of processors: PIL and torchvision; both are asked. Pixels are kept as levels 0..255 with the
scale and shift that turn them into the reference's float32, checked here to 1e-5; DINOv3's, which are no levels, as
float32. `written.json` is an input: the preprocessor_config.json that vitjax writes for each case
(tests/weights/test_preprocessing.py compares them); transformers must make the same pixels of it.
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import torchvision
except RuntimeError:  # its compiled operators belong to another build of torch; images need none of them
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

import timm
import transformers
from timm.data import create_transform, resolve_data_config
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

HERE = Path(__file__).parent / "preprocess"
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIZE = {"size": {"height": 24, "width": 24}}
ON = {"do_resize": True, "do_normalize": True}
NEW = {**ON, "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_convert_rgb": True}

CASES = {
    "vit_old": (
        {**ON, **HALF, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 24},
        "wide large small thin",
    ),
    "vit": (
        {
            **NEW,
            **IMAGENET,
            "image_processor_type": "ViTImageProcessor",
            "resample": 3,
            "size": {"height": 20, "width": 28},
        },
        "wide grey palette rgba rotated",
    ),
    "vit_lanczos": (
        {
            **NEW,
            **HALF,
            "image_processor_type": "ViTImageProcessorFast",
            "resample": 1,
            **SIZE,
        },
        "wide",
    ),
    "vit_nearest": (
        {
            **NEW,
            **HALF,
            "image_processor_type": "ViTImageProcessor",
            "resample": 0,
            **SIZE,
        },
        "wide",
    ),
    "vit_not_normalized": (
        {
            "image_processor_type": "ViTImageProcessor",
            "do_normalize": False,
            **SIZE,
        },
        "wide",
    ),
    "vit_not_rescaled": (
        {
            "image_processor_type": "ViTImageProcessor",
            "do_rescale": False,
            "image_mean": [127.5, 120.0, 100.0],
            "image_std": [127.5, 60.0, 50.0],
            **SIZE,
        },
        "wide",
    ),
    "vit_other_factor": (
        {**HALF, "image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5, "size": 16},
        "wide",
    ),
    "deit_old": (
        {
            **ON,
            **IMAGENET,
            "feature_extractor_type": "DeiTFeatureExtractor",
            "do_center_crop": True,
            "crop_size": 28,
            "resample": 3,
            "size": 32,
        },
        "wide large small",
    ),
    "deit_odd": (
        {
            **NEW,
            **IMAGENET,
            "image_processor_type": "DeiTImageProcessor",
            "crop_size": {"height": 23, "width": 19},
            "size": {"height": 30, "width": 30},
        },
        "large",
    ),
    "beit_old": (
        {
            **ON,
            **HALF,
            "feature_extractor_type": "BeitFeatureExtractor",
            "do_center_crop": False,
            "crop_size": 24,
            "resample": 2,
            "size": 24,
            "reduce_labels": False,
        },
        "wide",
    ),
    "dinov2": (
        {
            **NEW,
            **IMAGENET,
            "image_processor_type": "BitImageProcessor",
            "do_center_crop": True,
            "crop_size": {"height": 28, "width": 28},
            "resample": 3,
            "size": {"shortest_edge": 32},
        },
        "wide large thin grey rgba",
    ),
    "clip_old": (
        {
            **ON,
            **CLIP,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "do_center_crop": True,
            "crop_size": 24,
            "resample": 3,
            "size": 24,
        },
        "wide small large",
    ),
    "crop_alone": (
        {
            **NEW,
            **CLIP,
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": False,
            "do_center_crop": True,
            "crop_size": {"height": 30, "width": 41},
        },
        "wide small thin",
    ),
    "convnext_old": (
        {
            **ON,
            **IMAGENET,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "crop_pct": 0.875,
            "resample": 3,
            "size": 28,
        },
        "wide large",
    ),
    "siglip": (
        {
            **NEW,
            **HALF,
            "image_processor_type": "SiglipImageProcessor",
            "resample": 3,
            **SIZE,
        },
        "wide grey palette",
    ),
    "dinov3": (
        {
            **NEW,
            **IMAGENET,
            "image_processor_type": "DINOv3ViTImageProcessorFast",
            "crop_size": None,
            "data_format": "channels_first",
            "default_to_square": True,
            "device": None,
            "do_center_crop": None,
            "resample": 2,
            "size": {"height": 16, "width": 20},
        },
        "wide large small",
    ),
    "siglip2": (
        {
            **NEW,
            **HALF,
            "image_processor_type": "Siglip2ImageProcessor",
            "resample": 2,
            "patch_size": 4,
            "max_num_patches": 30,
        },
        "wide large small thin grey",
    ),
    "donut": (
        {
            **NEW,
            **HALF,
            "image_processor_type": "DonutImageProcessor",
            "do_align_long_axis": False,
            "do_thumbnail": True,
            "do_pad": True,
            "resample": 2,
            "size": {"height": 40, "width": 30},
        },
        "wide large small",
    ),
    "donut_old": (
        {
            **ON,
            **HALF,
            "feature_extractor_type": "DonutFeatureExtractor",
            "do_align_long_axis": True,
            "do_thumbnail": True,
            "do_pad": True,
            "resample": 2,
            "size": [24, 33],
        },
        "wide large",
    ),
}

TIMM_CASES = {
    "timm_center": (
        {"input_size": [3, 28, 28], "interpolation": "bicubic", "crop_pct": 0.9},
        "wide large thin grey",
    ),
    "timm_squash": (
        {
            "input_size": [3, 24, 24],
            "interpolation": "bilinear",
            "crop_pct": 0.85,
            "crop_mode": "squash",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "wide small",
    ),
    "timm_border": (
        {"input_size": [3, 24, 24], "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "border"},
        "wide large",
    ),
    "timm_oblong": ({"input_size": [3, 24, 36], "crop_pct": 0.95, "crop_mode": "center"}, "wide large"),
}


def scene(height, width, seed):
    """Shades, an edge and a little noise, in RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shades = np.stack([127 + 110 * np.sin(x / 9 + y / 13), 255 * x / width, 255 * y / height], axis=-1)
    shades[(x > width / 2) & (y > height / 3)] += 60
    return np.clip(shades + rng.integers(-4, 5, shades.shape), 0, 255).astype(np.uint8)


def images():
    wide = Image.fromarray(scene(37, 61, 0))
    rgba = scene(33, 48, 1)
    alpha = np.clip(np.mgrid[:33, :48][1] * 6, 0, 255).astype(np.uint8)
    palette = wide.quantize(16)
    palette.info["transparency"] = 3
    yield "wide", wide, {}
    yield "large", Image.fromarray(scene(90, 121, 2)), {}
    yield "small", Image.fromarray(scene(7, 9, 3)), {}
    yield "thin", Image.fromarray(scene(50, 1, 4)), {}
    yield "grey", Image.fromarray(scene(29, 40, 5)).convert("L"), {}
    yield "palette", palette, {"transparency": 3}
    yield "rgba", Image.fromarray(np.concatenate([rgba, alpha[..., None]], axis=-1)), {}
    exif = Image.Exif()
    exif[274] = 6  # Orientation: to be turned by 90 degrees
    yield "rotated", Image.fromarray(scene(55, 37, 6)), {"exif": exif}


def by_transformers(fields, name, backend):
    """[H, W, 3] float32 of one image. Files that are named by a path are turned upright; opened ones are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(fields))
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
    if processor.backend != backend:
        return None
    path = HERE / "images" / f"{name}.png"
    image = load_image(str(path)) if name == "rotated" else Image.open(path)
    out = processor(image, return_tensors="np")
    pixels = np.asarray(out["pixel_values"][0], np.float32)
    if "spatial_shapes" not in out:
        return pixels.transpose(1, 2, 0)
    (rows, columns), size = np.asarray(out["spatial_shapes"][0]).tolist(), fields["patch_size"]
    assert np.asarray(out["pixel_attention_mask"][0]).tolist() == [1] * (rows * columns) + [0] * (
        fields["max_num_patches"] - rows * columns
    )
    patches = pixels[: rows * columns].reshape(rows, columns, size, size, 3)
    return patches.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)


def scale_and_shift(fields):
    """Of levels 0..255, for each channel."""
    factor = fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0
    if not fields.get("do_normalize", True):
        return [factor] * 3, [0.0] * 3
    mean, std = (np.asarray(fields.get(name, [0.5] * 3)) for name in ("image_mean", "image_std"))
    return (factor / std).tolist(), (-mean / std).tolist()


def levels(pixels, scale, shift):
    found = np.rint((pixels - np.asarray(shift)) / np.asarray(scale))
    assert np.abs((found * scale + shift - pixels) / np.maximum(1, np.abs(pixels))).max() < 1e-5
    return found.astype(np.uint8)


def main():
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    (HERE / "images").mkdir(parents=True, exist_ok=True)
    for name, image, options in images():
        image.save(HERE / "images" / f"{name}.png", optimize=True, **options)
    cases, arrays = {}, {}
    for case, (fields, names) in CASES.items():
        scale, shift = scale_and_shift(fields)
        cases[case] = {"fields": fields, "images": names.split(), "scale": scale, "shift": shift}
        for name in names.split():
            for backend in ("pil", "torchvision"):
                pixels = by_transformers(fields, name, backend)
                if pixels is None or (case == "crop_alone" and backend == "torchvision"):
                    continue  # there are DINOv3's by torchvision alone; the two pad odd numbers on different sides
                arrays[f"{case}/{name}/{backend}"] = (
                    pixels if case == "dinov3" else levels(pixels, scale, shift)
                )
    for case, (fields, names) in TIMM_CASES.items():
        fields = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], **fields}
        transform = create_transform(**resolve_data_config(pretrained_cfg=fields), is_training=False)
        scale, shift = scale_and_shift({"image_mean": fields["mean"], "image_std": fields["std"]})
        cases[case] = {"fields": TIMM_CASES[case][0], "images": names.split(), "scale": scale, "shift": shift}
        for name in names.split():
            pixels = transform(Image.open(HERE / "images" / f"{name}.png").convert("RGB"))
            arrays[f"{case}/{name}/timm"] = levels(pixels.numpy().transpose(1, 2, 0), scale, shift)
    packages = {"transformers": transformers, "torchvision": torchvision, "timm": timm, "torch": torch}
    made_with = {name: package.__version__ for name, package in packages.items()}
    made_with["pillow"] = Image.__version__
    (HERE / "cases.json").write_text(json.dumps({"made_with": made_with, "cases": cases}, indent=1) + "\n")
    np.savez_compressed(HERE / "expected.npz", **arrays)
    print(len(arrays), "outputs")
    check_written(cases, arrays)


def check_written(cases, arrays):
    for case, fields in json.loads((HERE / "written.json").read_text()).items():
        scale, shift = cases[case]["scale"], cases[case]["shift"]
        for key, expected in arrays.items():
            if key.startswith(f"{case}/"):
                pixels = by_transformers(fields, *key.split("/")[1:])
                if expected.dtype == np.uint8:
                    expected = expected * np.asarray(scale) + shift
                np.testing.assert_allclose(pixels, expected, rtol=1e-5, atol=1e-5)
        print(case, "written by vitjax: the same pixels")


if __name__ == "__main__":
    main()
