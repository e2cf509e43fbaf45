"""BEiT and BEiT v2, as transformers writes them, `BeitModel`, `BeitForImageClassification`, and as timm does, `beit*`.

Attention has biases by the offset between two patches, in one table for all layers or one of each; the last three of a
table are the class token's.
"""

import re
from dataclasses import replace
from typing import Any, Literal

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.models.vit_config import ImagePositions
from vitjax.nn.blocks import TransformerConfig
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import has_remainder
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.timm_vit import (
    POOLS,
    attention_with_separate_biases,
    image_size_of,
    mlp,
    pooling_of,
)
from vitjax.weights.torch_layers import linear, norm, patches
from vitjax.weights.vit import (
    block_entries,
    embedding_entries,
    read_vit,
    write_fields,
)

INDEX = Ignored(r".*relative_position_index", "counts offsets, in files of old versions")


def read_beit(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model of transformers' config.json.

    A model that was pretrained to name visual tokens has no pooled vector, and a last norm that these were read after.
    """
    if any(name.startswith("decode_head.") for name in specs):
        raise ValueError("this BEiT segments images: only encoders and classifiers are supported")
    each, shared = (fields.get(f"use_{which}relative_position_bias", False) for which in ("", "shared_"))
    if each and shared:
        raise ValueError(
            "use_relative_position_bias and use_shared_relative_position_bias: expected one of them"
        )
    mean, pretrained = fields.get("use_mean_pooling", True), "layernorm.weight" in specs
    scale = fields.get("layer_scale_init_value", 0.1)
    config = read_vit({**fields, "qkv_bias": True}, specs)
    return replace(
        config,
        transformer=replace(
            config.transformer,
            qkv_bias="query_value",
            layer_scale=float(scale) if scale > 0 else None,
            stochastic_depth=float(fields.get("drop_path_rate", 0.1)),
        ),
        **_positions(
            fields.get("use_absolute_position_embeddings", False),
            "layers" if each else "shared" if shared else None,
        ),
        position_interpolation="bicubic",
        relative_interpolation="bilinear",
        final_norm="pooled" if mean and not pretrained else "tokens",
        pooling="cls" if not mean else "none" if pretrained else "mean",
    )


def _positions(absolute: bool, relative: Literal["shared", "layers"] | None) -> dict[str, Any]:
    """The fields of a config that say where patches are."""
    kinds: dict[tuple[bool, bool], ImagePositions] = {
        (True, True): "learned_relative",
        (True, False): "learned",
        (False, True): "relative",
        (False, False): "none",
    }
    return {
        "positions": kinds[absolute, relative is not None],
        "prefix_positions": int(absolute),
        "relative_tables": relative or "shared",
        "relative_prefix": relative is not None,
    }


def write_beit(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_beit`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"BEiT is no {config.kind}")
    if config.pooling == "none":
        raise ValueError(
            "BEiT without a pooled vector is pretrained only, and read only: it needs pooling 'mean'"
        )
    t, relative = config.transformer, config.has_relative_positions
    fields = write_fields(config)
    del fields["qkv_bias"]
    return {
        "model_type": "beit",
        "architectures": ["BeitForImageClassification" if config.num_classes else "BeitModel"],
        **fields,
        "layer_scale_init_value": 0.0 if t.layer_scale is None else t.layer_scale,
        "drop_path_rate": t.stochastic_depth,
        "use_absolute_position_embeddings": config.has_learned_positions,
        "use_relative_position_bias": relative and config.relative_tables == "layers",
        "use_shared_relative_position_bias": relative and config.relative_tables == "shared",
        "use_mean_pooling": config.pooling != "cls",
        "use_mask_token": False,
    }


def beit_entries(config: VisionTransformerConfig) -> list[Entry]:
    """transformers' whole table."""
    blocks = "encoder.layer.{layer}"
    tables = {"shared": "encoder", "layers": f"{blocks}.attention.attention"}
    return [
        *embedding_entries(config),
        *block_entries(config.transformer),
        *_relative(
            config, f"{tables[config.relative_tables]}.relative_position_bias.relative_position_bias_table"
        ),
        *_layer_scales(config, f"{blocks}.lambda"),
        *norm("pooler.layernorm" if config.final_norm == "pooled" else "layernorm", "norm"),
        *(linear("classifier", "head") if config.num_classes else []),
    ]


def _relative(config: VisionTransformerConfig, theirs: str) -> list[Entry]:
    ours = "blocks/relative_bias" if config.relative_tables == "layers" else "relative_bias"
    paths = (f"{ours}/embedding", f"{ours}/prefix")
    return [Entry(theirs, paths)] if config.has_relative_positions else []


def _layer_scales(config: VisionTransformerConfig, theirs: str) -> list[Entry]:
    if config.transformer.layer_scale is None:
        return []
    return [
        Entry(f"{theirs}_1", "blocks/attention_sublayer/layer_scale/scale"),
        Entry(f"{theirs}_2", "blocks/feed_forward_sublayer/layer_scale/scale"),
    ]


def is_timm_beit(fields: Fields, specs: Specs) -> bool:
    """Whether config.json names one of timm's."""
    return str(fields.get("architecture", "")).startswith(("beit_", "beitv2_"))


def read_timm_beit(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model, of the arrays and of what `model_args` say."""
    args = dict(fields.get("model_args") or {})
    width, channels, *patch = specs["patch_embed.proj.weight"].shape
    head = specs.get("head.weight")
    table = "relative_position_bias_table"
    each, shared = f"blocks.0.attn.{table}" in specs, f"rel_pos_bias.{table}" in specs
    image_size = image_size_of(fields, args)
    return VisionTransformerConfig(
        transformer=TransformerConfig(
            width=width,
            depth=sum(re.fullmatch(r"blocks\.\d+\.norm1\.weight", name) is not None for name in specs),
            num_heads=args.get("num_heads") or width // 64,
            feed_forward_width=specs["blocks.0.mlp.fc2.weight"].shape[1],
            qkv_bias="query_value" if "blocks.0.attn.q_bias" in specs else "none",
            layer_scale=float(args.get("init_values", 0.1)) if "blocks.0.gamma_1" in specs else None,
        ),
        image_size=image_size,
        patch_size=(patch[0], patch[1]),
        drop_remainder=has_remainder(image_size, (patch[0], patch[1])),
        channels=channels,
        num_classes=head.shape[0] if head else 0,
        class_token=True,
        **_positions("pos_embed" in specs, "layers" if each else "shared" if shared else None),
        position_interpolation="bicubic_antialias",
        relative_interpolation="linear_geometric",
        final_norm="pooled" if "fc_norm.weight" in specs else "tokens",
        pooling=pooling_of(fields.get("global_pool", "avg")),
    )


def write_timm_beit(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_timm_beit`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"BEiT is no {config.kind}")
    t, relative = config.transformer, config.has_relative_positions
    pool = {ours: theirs for theirs, ours in POOLS.items()}.get(config.pooling)
    if pool is None:
        raise ValueError(f"timm's BEiT has no pooling {config.pooling!r}")
    return {
        "architecture": "beit_base_patch16_224",
        "num_classes": config.num_classes,
        "num_features": t.width,
        "global_pool": pool,
        "model_args": {
            "img_size": list(config.image_size),
            "patch_size": list(config.patch_size),
            "in_chans": config.channels,
            "num_classes": config.num_classes,
            "embed_dim": t.width,
            "depth": t.depth,
            "num_heads": t.num_heads,
            "mlp_ratio": (t.feed_forward_width + 0.5) / t.width,  # timm rounds the product down
            "qkv_bias": t.qkv_bias != "none",
            "init_values": t.layer_scale,
            "use_abs_pos_emb": config.has_learned_positions,
            "use_rel_pos_bias": relative and config.relative_tables == "layers",
            "use_shared_rel_pos_bias": relative and config.relative_tables == "shared",
            "use_fc_norm": config.final_norm == "pooled",
            "global_pool": pool,
        },
    }


def timm_beit_entries(config: VisionTransformerConfig) -> list[Entry]:
    """timm's whole table."""
    t, theirs, ours = config.transformer, "blocks.{layer}", "blocks"
    tables = {"shared": "rel_pos_bias", "layers": f"{theirs}.attn"}
    absolute = Entry("pos_embed", ("positions/prefix", "positions/embedding"), "1 N D -> N D", axis=1)
    return [
        Entry("cls_token", "class_token"),
        *([absolute] if config.has_learned_positions else []),
        *patches("patch_embed.proj"),
        *norm(f"{theirs}.norm1", f"{ours}/attention_sublayer/norm"),
        *attention_with_separate_biases(f"{theirs}.attn", f"{ours}/attention", use_bias=t.qkv_bias != "none"),
        *_relative(config, f"{tables[config.relative_tables]}.relative_position_bias_table"),
        *norm(f"{theirs}.norm2", f"{ours}/feed_forward_sublayer/norm"),
        *mlp(f"{theirs}.mlp", f"{ours}/feed_forward"),
        *_layer_scales(config, f"{theirs}.gamma"),
        *norm("fc_norm" if config.final_norm == "pooled" else "norm", "norm"),
        *(linear("head", "head") if config.num_classes else []),
    ]


BEIT = Family(
    name="BEiT",
    format="hf",
    recognizes=has_model_type("beit"),
    read_config=read_beit,
    write_config=write_beit,
    entries=beit_entries,
    prefix="beit.",
    heads=("classifier.", "lm_head.", "decode_head.", "auxiliary_head."),
    ignored=(
        INDEX,
        Ignored(r"embeddings\.mask_token", "stands for hidden patches in pretraining only"),
        Ignored(r"lm_head\..*", "names visual tokens in pretraining only"),
    ),
)

TIMM_BEIT = Family(
    name="timm BEiT",
    format="timm",
    recognizes=is_timm_beit,
    read_config=read_timm_beit,
    write_config=write_timm_beit,
    entries=timm_beit_entries,
    ignored=(INDEX,),
)
