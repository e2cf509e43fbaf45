"""SigLIP2's image tower with NaFlex as transformers writes it: `Siglip2VisionModel`, or inside a whole `Siglip2Model`.

Theirs takes patches that are already cut, of images of any shape; ours takes images of one shape, or
`vitjax.nn.embeddings.PackedPatches`. SigLIP2 of one resolution is a `siglip`.
"""

import math
from dataclasses import replace
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.weights.clip import vision_fields
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import pair_of
from vitjax.weights.siglip import (
    DEFAULTS,
    IGNORED,
    encoder_entries,
    in_model,
    read_siglip,
    write_siglip_tower,
)
from vitjax.weights.table import Entry


def read_siglip2(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The image tower of a config.json; its image size is the square that has as many patches as positions."""
    vision = vision_fields(fields, DEFAULTS)
    rows, columns = pair_of(vision.get("patch_size", 16), "patch_size")
    positions = vision.get("num_patches", 256)
    side = math.isqrt(positions)
    if side * side != positions:
        raise ValueError(f"num_patches is {positions}: expected a square")
    config = read_siglip({**vision, "image_size": [side * rows, side * columns]}, specs)
    return replace(config, position_interpolation="bilinear_antialias")


def write_siglip2(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_siglip2`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"SigLIP2's image tower is no {config.kind}")
    rows, columns = config.grid(config.image_size)
    fields = {**write_siglip_tower(config), "num_patches": rows * columns}
    return in_model(fields, "siglip2", "Siglip2", config.num_classes)


def siglip2_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table: a linear layer over rows, columns and channels of a patch makes its vector."""
    theirs, ours = "embeddings.patch_embedding", "patch_embedding/projection"
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", "out (h w in) -> h w in out"),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
        *encoder_entries(config),
    ]


SIGLIP2 = Family(
    name="SigLIP2 image tower, NaFlex",
    format="hf",
    recognizes=has_model_type("siglip2", "siglip2_vision_model"),
    read_config=read_siglip2,
    write_config=write_siglip2,
    entries=siglip2_entries,
    prefix="vision_model.",
    heads=("classifier.",),
    ignored=IGNORED,
)
