"""CLIP's image tower as transformers writes it: `CLIPVisionModel[WithProjection]`, or inside a whole `CLIPModel`.

The projection into the space that images and texts share is read as a head: its logits are the image's embedding.
"""

from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import activation_name, activation_of, has_remainder, one_or_two, pair_of
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import from_heads, heads, linear, norm, patches

DEFAULTS = {"patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}

TEXT_TOWER = (
    Ignored(r"text_model\..*|text_projection\.weight", "the text tower, of which images need nothing"),
    Ignored(r"logit_scale|logit_bias", "of the comparison of images with texts"),
    Ignored(r"(.*\.)?embeddings\.position_ids", "counts 0, 1, 2, ... in files of old versions"),
)


def read_clip(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The image tower of a config.json of the tower or of both."""
    fields = vision_fields(fields, DEFAULTS)
    projection = specs.get("visual_projection.weight")
    image_size = pair_of(fields.get("image_size", 224), "image_size")
    patch_size = pair_of(fields["patch_size"], "patch_size")
    return VisionTransformerConfig(
        transformer=read_tower(fields),
        image_size=image_size,
        patch_size=patch_size,
        drop_remainder=has_remainder(image_size, patch_size),
        channels=fields.get("num_channels", 3),
        num_classes=projection.shape[0] if projection else 0,
        patch_bias=False,
        class_token=True,
        prefix_positions=1,
        position_interpolation="bicubic",
        embedding_norm=True,
        final_norm="pooled",
        pooling="cls",
        head_use_bias=False,
    )


def vision_fields(fields: Fields, defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of the image tower, with what is left out because it is the default.

    Old files have them twice, and transformers reads `vision_config_dict`.
    """
    return {**defaults, **(fields.get("vision_config_dict") or fields.get("vision_config", fields))}


def read_tower(fields: Fields) -> TransformerConfig:
    """The blocks of one tower."""
    return TransformerConfig(
        width=fields.get("hidden_size", 768),
        depth=fields.get("num_hidden_layers", 12),
        num_heads=fields.get("num_attention_heads", 12),
        feed_forward_width=fields.get("intermediate_size", 3072),
        norm_epsilon=float(fields["layer_norm_eps"]),
        activation=activation_of(fields),
        attention_dropout=float(fields.get("attention_dropout", 0.0)),
    )


def write_clip(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_clip`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"CLIP's image tower is no {config.kind}")
    fields = {
        **write_tower(config),
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModel"],
        "image_size": one_or_two(config.image_size),
    }
    if config.num_classes:
        fields |= {"architectures": ["CLIPVisionModelWithProjection"], "projection_dim": config.num_classes}
    return fields


def write_tower(config: VisionTransformerConfig) -> dict[str, Any]:
    """Blocks and patches of one tower."""
    t = config.transformer
    return {
        "hidden_size": t.width,
        "num_hidden_layers": t.depth,
        "num_attention_heads": t.num_heads,
        "intermediate_size": t.feed_forward_width,
        "layer_norm_eps": t.norm_epsilon,
        "hidden_act": activation_name(t.activation),
        "attention_dropout": t.attention_dropout,
        "patch_size": one_or_two(config.patch_size),
        "num_channels": config.channels,
    }


def clip_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table."""
    return [
        Entry("embeddings.class_embedding", "class_token", "(one token D) -> one token D"),
        *patches("embeddings.patch_embedding", use_bias=config.patch_bias),
        Entry("embeddings.position_embedding.weight", ("positions/prefix", "positions/embedding")),
        *norm("pre_layrnorm", "embedding_norm"),  # their spelling
        *block_entries(),
        *norm("post_layernorm", "norm"),
        *(linear("visual_projection", "head", use_bias=False) if config.num_classes else []),
    ]


def block_entries() -> list[Entry]:
    """The blocks of one tower, under `encoder.layers.`."""
    theirs, ours = "encoder.layers.{layer}", "blocks"
    return [
        *norm(f"{theirs}.layer_norm1", f"{ours}/attention_sublayer/norm"),
        *heads(f"{theirs}.self_attn.q_proj", f"{ours}/attention/query"),
        *heads(f"{theirs}.self_attn.k_proj", f"{ours}/attention/key"),
        *heads(f"{theirs}.self_attn.v_proj", f"{ours}/attention/value"),
        *from_heads(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out"),
        *norm(f"{theirs}.layer_norm2", f"{ours}/feed_forward_sublayer/norm"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down"),
    ]


CLIP = Family(
    name="CLIP image tower",
    format="hf",
    recognizes=has_model_type("clip", "clip_vision_model"),
    read_config=read_clip,
    write_config=write_clip,
    entries=clip_entries,
    prefix="vision_model.",
    heads=("visual_projection.",),
    ignored=TEXT_TOWER,
)
