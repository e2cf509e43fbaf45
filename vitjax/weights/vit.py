"""ViT and the MAE encoder as transformers writes them: `ViTModel`, `ViTForImageClassification`, `ViTMAEModel`.

Names are those on disk; in memory transformers 5 has others.
"""

from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import (
    activation_name,
    activation_of,
    demand,
    has_remainder,
    num_labels,
    one_or_two,
    pair_of,
)
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import from_heads, heads, linear, norm, patches

PRETRAINING = (
    Ignored(r"embeddings\.mask_token", "stands for hidden patches in pretraining only"),
    Ignored(r"decoder\..*", "paints hidden patches in pretraining only"),
)


def read_vit(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model of a ViT-like config.json: pre-norm, class token, learned positions for it and the patches."""
    demand(fields, pooler_act="tanh")
    head = specs.get("classifier.weight")
    image_size = pair_of(fields.get("image_size", 224), "image_size")
    patch_size = pair_of(fields.get("patch_size", 16), "patch_size")
    return VisionTransformerConfig(
        transformer=read_transformer(fields),
        image_size=image_size,
        patch_size=patch_size,
        drop_remainder=has_remainder(image_size, patch_size),
        channels=fields.get("num_channels", 3),
        num_classes=head.shape[0] if head else 0,
        class_token=True,
        prefix_positions=1,
        position_interpolation="bicubic",
        pooling="cls",
        pooler="pooler.dense.weight" in specs,
    )


def read_transformer(fields: Fields) -> TransformerConfig:
    """The blocks of a ViT-like config.json."""
    return TransformerConfig(
        width=fields.get("hidden_size", 768),
        depth=fields.get("num_hidden_layers", 12),
        num_heads=fields.get("num_attention_heads", 12),
        feed_forward_width=fields.get("intermediate_size", 3072),
        norm_epsilon=float(fields.get("layer_norm_eps", 1e-12)),
        activation=activation_of(fields),
        qkv_bias="all" if fields.get("qkv_bias", True) else "none",
        dropout=float(fields.get("hidden_dropout_prob", 0.0)),
        attention_dropout=float(fields.get("attention_probs_dropout_prob", 0.0)),
    )


def write_vit(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_vit`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"ViT has no {config.kind}")
    model = "ViTForImageClassification" if config.num_classes else "ViTModel"
    return {"model_type": "vit", "architectures": [model], **write_fields(config)}


def write_fields(config: VisionTransformerConfig) -> dict[str, Any]:
    """The fields of a ViT-like config.json, without the kind of model."""
    t = config.transformer
    return {
        "hidden_size": t.width,
        "num_hidden_layers": t.depth,
        "num_attention_heads": t.num_heads,
        "intermediate_size": t.feed_forward_width,
        "layer_norm_eps": t.norm_epsilon,
        "hidden_act": activation_name(t.activation),
        "qkv_bias": t.qkv_bias == "all",
        "hidden_dropout_prob": t.dropout,
        "attention_probs_dropout_prob": t.attention_dropout,
        "image_size": one_or_two(config.image_size),
        "patch_size": one_or_two(config.patch_size),
        "num_channels": config.channels,
        **num_labels(config.num_classes),
    }


def embedding_entries(config: VisionTransformerConfig) -> list[Entry]:
    """Patches, class token and positions under `embeddings.`."""
    positions = ("positions/prefix", "positions/embedding")
    entries = [
        Entry("embeddings.cls_token", "class_token"),
        *patches("embeddings.patch_embeddings.projection", use_bias=config.patch_bias),
    ]
    if config.has_learned_positions:
        entries.append(Entry("embeddings.position_embeddings", positions, "1 N D -> N D", axis=1))
    return entries


def block_entries(t: TransformerConfig) -> list[Entry]:
    """The blocks under `encoder.layer.`."""
    theirs, ours = "encoder.layer.{layer}", "blocks"
    return [
        *norm(f"{theirs}.layernorm_before", f"{ours}/attention_sublayer/norm"),
        *attention_entries(t),
        *norm(f"{theirs}.layernorm_after", f"{ours}/feed_forward_sublayer/norm"),
        *linear(f"{theirs}.intermediate.dense", f"{ours}/feed_forward/up"),
        *linear(f"{theirs}.output.dense", f"{ours}/feed_forward/down"),
    ]


def attention_entries(t: TransformerConfig) -> list[Entry]:
    """The attention of those blocks."""
    theirs, ours = "encoder.layer.{layer}.attention", "blocks/attention"
    return [
        *heads(f"{theirs}.attention.query", f"{ours}/query", use_bias=t.qkv_bias != "none"),
        *heads(f"{theirs}.attention.key", f"{ours}/key", use_bias=t.qkv_bias == "all"),
        *heads(f"{theirs}.attention.value", f"{ours}/value", use_bias=t.qkv_bias != "none"),
        *from_heads(f"{theirs}.output.dense", f"{ours}/out"),
    ]


def vit_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table."""
    return [
        *embedding_entries(config),
        *block_entries(config.transformer),
        *norm("layernorm", "norm"),
        *(linear("pooler.dense", "pooler") if config.pooler else []),
        *(linear("classifier", "head") if config.num_classes else []),
    ]


VIT = Family(
    name="ViT",
    format="hf",
    recognizes=has_model_type("vit"),
    read_config=read_vit,
    write_config=write_vit,
    entries=vit_entries,
    prefix="vit.",
    heads=("classifier.", "decoder."),
    ignored=PRETRAINING,
)

MAE = Family(
    name="MAE encoder",
    format="hf",
    recognizes=has_model_type("vit_mae"),
    read_config=read_vit,
    write_config=lambda config: {
        **write_vit(config),
        "model_type": "vit_mae",
        "architectures": ["ViTMAEModel"],
    },
    entries=vit_entries,
    prefix="vit.",
    heads=("decoder.",),
    ignored=PRETRAINING,
)
