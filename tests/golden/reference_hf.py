"""What transformers' image encoders are made of, saved as and asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

from tests.golden.reference_case import Sizes, pixels, to_torch

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


def saved(
    model,
    folder: Path,
    processor: dict | None = None,
    rewrite: Callable[[Path], None] | None = None,
    half: bool = False,
):
    """Saves a model, in float16 if `half`, and loads what users would, in float32.

    `rewrite(folder)` makes of what this version of transformers saves what is published, or what older ones saved.
    """
    if half:
        model.half()
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    if rewrite:
        rewrite(folder)
    return loaded(type(model), folder)[0]


def loaded(kind: type, folder: Path):
    """A model of this class in float32, and what transformers missed, found too much or of another shape."""
    model, told = kind.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    for module in model.modules():
        if isinstance(module, TrOCRSinusoidalPositionalEmbedding):  # transformers 5.23 leaves it without data
            table = module.weights.shape[0], module.embedding_dim, module.padding_idx
            module.weights = module.get_embedding(*table)
    return model.eval(), {name: sorted(map(str, found)) for name, found in told.items() if found}


def processor(kind: str, side: int, /, **options) -> dict:
    """A preprocessor_config.json as most checkpoints have it."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": kind,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    } | options


def outputs(model, images, prefix: str = "", backbone=None, **options) -> dict:
    """What a transformers model computes from images [B, H, W, 3], under `prefix`; `backbone` is a classifier's own.

    `pooled` is what a classifier reads, where its backbone pools at all.
    """
    given = {"pixel_values": to_torch(images), **options}
    features = (backbone or model)(**given)
    found = {"pixels": images, "tokens": features.last_hidden_state}
    pooled = getattr(features, "pooler_output", None)
    if backbone:
        read = []
        head = getattr(model, "cls_classifier", None) or model.classifier
        hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        found["logits"] = model(**given).logits
        hook.remove()
        pooled = None if pooled is None else read[0]
    if pooled is not None:
        found["pooled"] = pooled
    return {prefix + name: value for name, value in found.items()}


def both_sizes(model, seed: int, sizes: Sizes, backbone=None, **options) -> dict:
    """`options` are for the second size: how this family is told to interpolate, where it has to be."""
    small = outputs(model, pixels(seed, sizes.image, sizes.image), backbone=backbone)
    return small | outputs(model, pixels(seed, *sizes.other, 1), "other_", backbone, **options)


INTERPOLATE = {"interpolate_pos_encoding": True}


def facts(model, **more) -> dict:
    return {"reference": f"transformers {transformers.__version__} {type(model).__name__}", **more}


def add_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Beside the weights of a saved model, what older versions saved too."""
    file = folder / "model.safetensors"
    save_file(load_file(file) | tensors, file, {"format": "pt"})


def rename(folder: Path, prefixes: dict[str, str]) -> None:
    """Tensors of a saved model, to the names that published files have; the prefix "" is every name's."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for old, new in prefixes.items():
        tensors = {
            new + name.removeprefix(old) if name.startswith(old) else name: tensors[name] for name in tensors
        }
    save_file(tensors, file, {"format": "pt"})
