"""Cases of transformers' image encoders in the manner of ViT: ViT and DeiT."""

import json
from pathlib import Path

import transformers
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.golden.reference_case import Sizes, case, pixels, randomise, to_torch

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def encoder(sizes: Sizes, **options) -> dict:
    """The config fields that these families share."""
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "attn_implementation": "eager",
        **options,
    }


def labels(count: int) -> dict:
    names = {number: f"label {number}" for number in range(count)}
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def save(model, folder: Path, processor: dict | None = None) -> None:
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def processor(kind: str, size: int, **options) -> dict:
    """A preprocessor_config.json as most checkpoints have it."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": kind,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
        **options,
    }


def outputs(model, images, prefix: str = "", tokens: str | None = None, **options) -> dict:
    """What a transformers model computes from images [B, H, W, 3], under `prefix`; `tokens` names its backbone."""
    given = {"pixel_values": to_torch(images), **options}
    backbone = getattr(model, tokens) if tokens else model
    features = backbone(**given)
    found = {"pixels": images, "tokens": features.last_hidden_state}
    if getattr(features, "pooler_output", None) is not None:
        found["pooled"] = features.pooler_output
    if tokens:
        found["logits"] = model(**given).logits
    return {prefix + name: value for name, value in found.items()}


def both_sizes(model, seed: int, sizes: Sizes, tokens: str | None = None) -> dict:
    small = outputs(model, pixels(seed, sizes.image, sizes.image), tokens=tokens)
    other = pixels(seed, *sizes.other)
    return small | outputs(model, other, "other_", tokens, interpolate_pos_encoding=True)


def facts(model, **more) -> dict:
    return {"reference": f"transformers {transformers.__version__} {type(model).__name__}", **more}


@case(seed=1)
def vit_hf(folder: Path, seed: int, sizes: Sizes):
    config = ViTConfig(**encoder(sizes), **labels(sizes.labels))
    model = randomise(ViTForImageClassification(config), seed)
    save(model, folder, processor("ViTImageProcessor", sizes.image, **HALVES))
    return both_sizes(model, seed, sizes, "vit"), facts(model)


@case(seed=2, width=40, heads=4, patch=5, other=(20, 35))
def vit_hf_headless(folder: Path, seed: int, sizes: Sizes):
    config = ViTConfig(**encoder(sizes, qkv_bias=False, hidden_act="gelu_new"))
    model = randomise(ViTModel(config), seed)
    save(model, folder, processor("ViTImageProcessor", sizes.image, **HALVES))
    return both_sizes(model, seed, sizes), facts(model)


@case(seed=3)
def deit_hf(folder: Path, seed: int, sizes: Sizes):
    config = DeiTConfig(**encoder(sizes), **labels(sizes.labels))
    model = randomise(DeiTForImageClassification(config), seed)
    save(model, folder, deit_processor(sizes))
    return both_sizes(model, seed, sizes, "deit"), facts(model)


@case(seed=4, layers=3)
def deit_hf_distilled(folder: Path, seed: int, sizes: Sizes):
    config = DeiTConfig(**encoder(sizes), **labels(sizes.labels))
    model = randomise(DeiTForImageClassificationWithTeacher(config), seed)
    save(model, folder, deit_processor(sizes))
    return both_sizes(model, seed, sizes, "deit"), facts(model)


def deit_processor(sizes: Sizes) -> dict:
    resized = round(sizes.image * 256 / 224)
    return processor(
        "DeiTImageProcessor",
        resized,
        resample=3,
        do_center_crop=True,
        crop_size={"height": sizes.image, "width": sizes.image},
        **IMAGENET,
    )
