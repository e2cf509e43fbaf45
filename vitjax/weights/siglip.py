"""SigLIP's image tower as transformers writes it: `SiglipVisionModel`, inside a whole `SiglipModel`, or a classifier.

SigLIP2 of one resolution is published as this too; with NaFlex it is `siglip2`.
"""

from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.pooling import Pooling
from vitjax.weights.clip import TEXT_TOWER, block_entries, read_tower, vision_fields, write_tower
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import has_remainder, num_labels, one_or_two, pair_of
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import from_heads, linear, norm, patches

DEFAULTS = {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}

IGNORED = (*TEXT_TOWER, Ignored(r"head\..*", "the pooling, beside a classifier of the patches' mean"))


def read_siglip(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The image tower of a config.json of the tower, of both, or of a classifier."""
    fields = vision_fields(fields, DEFAULTS)
    classifier = specs.get("classifier.weight")
    pooling: Pooling = "attention" if fields.get("vision_use_head", True) else "none"
    image_size = pair_of(fields.get("image_size", 224), "image_size")
    patch_size = pair_of(fields.get("patch_size", 16), "patch_size")
    return VisionTransformerConfig(
        transformer=read_tower(fields),
        image_size=image_size,
        patch_size=patch_size,
        drop_remainder=has_remainder(image_size, patch_size),
        channels=fields.get("num_channels", 3),
        num_classes=classifier.shape[0] if classifier else 0,
        position_interpolation="bicubic",
        pooling="mean" if classifier else pooling,
    )


def write_siglip(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_siglip`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"SigLIP's image tower is no {config.kind}")
    fields = {**write_siglip_tower(config), "image_size": one_or_two(config.image_size)}
    return in_model(fields, "siglip", "Siglip", config.num_classes)


def write_siglip_tower(config: VisionTransformerConfig) -> dict[str, Any]:
    """Blocks, patches and pooling."""
    return {**write_tower(config), "vision_use_head": config.pooling == "attention"}


def in_model(tower: dict[str, Any], kind: str, name: str, num_classes: int) -> dict[str, Any]:
    """The config.json of a tower alone, or of a classifier, whose tower is one of two."""
    tower["model_type"] = f"{kind}_vision_model"
    if not num_classes:
        return {**tower, "architectures": [f"{name}VisionModel"]}
    return {
        "model_type": kind,
        "architectures": [f"{name}ForImageClassification"],
        "vision_config": tower,
        **num_labels(num_classes),
    }


def siglip_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table."""
    return [*patches("embeddings.patch_embedding"), *encoder_entries(config)]


def encoder_entries(config: VisionTransformerConfig) -> list[Entry]:
    """All but the patches."""
    entries = [
        Entry("embeddings.position_embedding.weight", "positions/embedding"),
        *block_entries(),
        *norm("post_layernorm", "norm"),
    ]
    if config.pooling == "attention":
        entries += pooling_entries()
    return [*entries, *(linear("classifier", "head") if config.num_classes else [])]


def pooling_entries() -> list[Entry]:
    """The pooling, whose attention is torch's own, with one matrix for queries, keys and values."""
    theirs, ours = "head", "pool"
    names = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
    kernels, biases = tuple(f"{name}/kernel" for name in names), tuple(f"{name}/bias" for name in names)
    return [
        Entry(f"{theirs}.probe", f"{ours}/probe"),
        Entry(f"{theirs}.attention.in_proj_weight", kernels, "(H C) D -> D H C"),
        Entry(f"{theirs}.attention.in_proj_bias", biases, "(H C) -> H C"),
        *from_heads(f"{theirs}.attention.out_proj", f"{ours}/attention/out"),
        *norm(f"{theirs}.layernorm", f"{ours}/norm"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down"),
    ]


SIGLIP = Family(
    name="SigLIP image tower",
    format="hf",
    recognizes=has_model_type("siglip", "siglip_vision_model"),
    read_config=read_siglip,
    write_config=write_siglip,
    entries=siglip_entries,
    prefix="vision_model.",
    heads=("classifier.",),
    ignored=IGNORED,
)
