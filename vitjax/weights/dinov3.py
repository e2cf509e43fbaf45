"""DINOv3's Vision Transformers, as transformers writes them, `DINOv3ViTModel`, and as timm does, `vit_*_dinov3[_qkvb]`.

Both turn queries and keys by the place of a patch in the image, so there is no table of positions, and any size is
native. timm has the plain models without the biases of queries and values, which are zero there.
"""

import re
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.attention import QKVBias
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.feedforward import Activation
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import (
    activation_name,
    activation_of,
    demand,
    has_remainder,
    one_or_two,
    pair_of,
)
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.timm_vit import (
    POOLS,
    attention_with_separate_biases,
    image_size_of,
    mlp,
    pooling_of,
)
from vitjax.weights.torch_layers import from_heads, heads, linear, norm, patches

BIASES: dict[tuple[bool, bool, bool], QKVBias] = {
    (True, True, True): "all",
    (True, False, True): "query_value",
    (False, False, False): "none",
}
GATED: dict[Activation, Activation] = {"silu": "swiglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh"}

IGNORED = (
    Ignored(r"(embeddings\.)?mask_token", "stands for hidden patches in pretraining only"),
    Ignored(r"embeddings\.register_tokens", "holds nothing where there are no registers"),
)


def read_dinov3(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model of transformers' config.json."""
    demand(fields, proj_bias=True, mlp_bias=True)
    flags = tuple(
        fields.get(f"{name}_bias", default)
        for name, default in (("query", True), ("key", False), ("value", True))
    )
    if flags not in BIASES:
        raise ValueError(f"query_bias, key_bias and value_bias are {flags}: expected one of {list(BIASES)}")
    activation = activation_of(fields)
    if fields.get("use_gated_mlp", False):
        if activation not in GATED:
            raise ValueError(
                f"use_gated_mlp with hidden_act {activation!r}: only {', '.join(GATED)} can gate"
            )
        activation = GATED[activation]
    image_size = pair_of(fields.get("image_size", 224), "image_size")
    patch_size = pair_of(fields.get("patch_size", 16), "patch_size")
    return VisionTransformerConfig(
        transformer=TransformerConfig(
            width=fields.get("hidden_size", 384),
            depth=fields.get("num_hidden_layers", 12),
            num_heads=fields.get("num_attention_heads", 6),
            feed_forward_width=fields.get("intermediate_size", 1536),
            norm_epsilon=float(fields.get("layer_norm_eps", 1e-5)),
            activation=activation,
            qkv_bias=BIASES[flags],
            layer_scale=float(fields.get("layerscale_value", 1.0)),
            attention_dropout=float(fields.get("attention_dropout", 0.0)),
        ),
        image_size=image_size,
        patch_size=patch_size,
        drop_remainder=has_remainder(image_size, patch_size),
        channels=fields.get("num_channels", 3),
        positions="rotary",
        rotary_base=float(fields.get("rope_theta", 100.0)),
        rotary_unit="image",
        class_token=True,
        registers=fields.get("num_register_tokens", 0),
        pooling="cls",
    )


def write_dinov3(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_dinov3`."""
    t = _transformer(config)
    assert isinstance(config, VisionTransformerConfig)
    plain = {gated: plain for plain, gated in GATED.items()}
    query, key, value = next(flags for flags, bias in BIASES.items() if bias == t.qkv_bias)
    return {
        "model_type": "dinov3_vit",
        "architectures": ["DINOv3ViTModel"],
        "hidden_size": t.width,
        "num_hidden_layers": t.depth,
        "num_attention_heads": t.num_heads,
        "intermediate_size": t.feed_forward_width,
        "layer_norm_eps": t.norm_epsilon,
        "hidden_act": activation_name(plain.get(t.activation, t.activation)),
        "use_gated_mlp": t.activation in plain,
        "query_bias": query,
        "key_bias": key,
        "value_bias": value,
        "layerscale_value": t.layer_scale,
        "attention_dropout": t.attention_dropout,
        "image_size": one_or_two(config.image_size),
        "patch_size": one_or_two(config.patch_size),
        "num_channels": config.channels,
        "num_register_tokens": config.registers,
        "rope_theta": config.rotary_base,
    }


def _transformer(config: ModelConfig) -> TransformerConfig:
    """The blocks; ValueError if they lack what DINOv3's have."""
    if not isinstance(config, VisionTransformerConfig) or config.transformer.layer_scale is None:
        raise ValueError("DINOv3 has a layer scale")
    return config.transformer


def dinov3_entries(config: VisionTransformerConfig) -> list[Entry]:
    """transformers' whole table, by its names on disk; in memory it has others."""
    t, theirs, ours = config.transformer, "layer.{layer}", "blocks"
    gated = t.activation in GATED.values()
    return [
        Entry("embeddings.cls_token", "class_token"),
        *([Entry("embeddings.register_tokens", "registers")] if config.registers else []),
        *patches("embeddings.patch_embeddings"),
        *norm(f"{theirs}.norm1", f"{ours}/attention_sublayer/norm"),
        *heads(f"{theirs}.attention.q_proj", f"{ours}/attention/query", use_bias=t.qkv_bias != "none"),
        *heads(f"{theirs}.attention.k_proj", f"{ours}/attention/key", use_bias=t.qkv_bias == "all"),
        *heads(f"{theirs}.attention.v_proj", f"{ours}/attention/value", use_bias=t.qkv_bias != "none"),
        *from_heads(f"{theirs}.attention.o_proj", f"{ours}/attention/out"),
        Entry(f"{theirs}.layer_scale1.lambda1", f"{ours}/attention_sublayer/layer_scale/scale"),
        *norm(f"{theirs}.norm2", f"{ours}/feed_forward_sublayer/norm"),
        *linear(f"{theirs}.mlp.up_proj", f"{ours}/feed_forward/up"),
        *(linear(f"{theirs}.mlp.gate_proj", f"{ours}/feed_forward/gate") if gated else []),
        *linear(f"{theirs}.mlp.down_proj", f"{ours}/feed_forward/down"),
        Entry(f"{theirs}.layer_scale2.lambda1", f"{ours}/feed_forward_sublayer/layer_scale/scale"),
        *norm("norm", "norm"),
    ]


def is_timm_dinov3(fields: Fields, specs: Specs) -> bool:
    """Whether config.json names one of timm's."""
    return re.match(r"vit_.*_dinov3(_|$)", str(fields.get("architecture", ""))) is not None


def read_timm_dinov3(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model, of the arrays and of what `model_args` say."""
    args = dict(fields.get("model_args") or {})
    width, channels, *patch = specs["patch_embed.proj.weight"].shape
    head = specs.get("head.weight")
    gated = "blocks.0.mlp.fc1_g.weight" in specs
    size = {4096: 32}.get(width, width // 64)  # heads of the 7B are twice as wide
    image_size = image_size_of(fields, args)
    return VisionTransformerConfig(
        transformer=TransformerConfig(
            width=width,
            depth=sum(re.fullmatch(r"blocks\.\d+\.gamma_1", name) is not None for name in specs),
            num_heads=args.get("num_heads") or size,
            feed_forward_width=specs["blocks.0.mlp.fc2.weight"].shape[1],
            norm_epsilon=1e-5,
            activation="swiglu" if gated else "gelu",
            qkv_bias="query_value" if "blocks.0.attn.q_bias" in specs else "none",
            layer_scale=float(args.get("init_values", 1e-5)),
        ),
        image_size=image_size,
        patch_size=(patch[0], patch[1]),
        drop_remainder=has_remainder(image_size, (patch[0], patch[1])),
        channels=channels,
        num_classes=head.shape[0] if head else 0,
        positions="rotary",
        rotary_base=float(args.get("rope_temperature", 100.0)),
        rotary_unit="image",
        class_token=True,
        registers=specs["reg_token"].shape[1] if "reg_token" in specs else 0,
        pooling=pooling_of(fields.get("global_pool", "avg")),
    )


def write_timm_dinov3(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_timm_dinov3`."""
    t = _transformer(config)
    assert isinstance(config, VisionTransformerConfig)
    pool = {ours: theirs for theirs, ours in POOLS.items()}.get(config.pooling)
    if pool is None:
        raise ValueError(f"timm's DINOv3 has no pooling {config.pooling!r}")
    gated = t.activation == "swiglu"
    return {
        "architecture": f"vit_small_{'plus_' if gated else ''}patch16_dinov3"
        + ("" if t.qkv_bias == "none" else "_qkvb"),
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
            **({"swiglu_align_to": 1} if gated else {}),
            "init_values": t.layer_scale,
            "num_reg_tokens": config.registers,
            "rope_temperature": config.rotary_base,
            "global_pool": pool,
        },
    }


def timm_dinov3_entries(config: VisionTransformerConfig) -> list[Entry]:
    """timm's whole table."""
    t, theirs, ours = config.transformer, "blocks.{layer}", "blocks"
    return [
        Entry("cls_token", "class_token"),
        *([Entry("reg_token", "registers")] if config.registers else []),
        *patches("patch_embed.proj"),
        *norm(f"{theirs}.norm1", f"{ours}/attention_sublayer/norm"),
        *attention_with_separate_biases(f"{theirs}.attn", f"{ours}/attention", use_bias=t.qkv_bias != "none"),
        Entry(f"{theirs}.gamma_1", f"{ours}/attention_sublayer/layer_scale/scale"),
        *norm(f"{theirs}.norm2", f"{ours}/feed_forward_sublayer/norm"),
        *_timm_feed_forward(f"{theirs}.mlp", f"{ours}/feed_forward", t),
        Entry(f"{theirs}.gamma_2", f"{ours}/feed_forward_sublayer/layer_scale/scale"),
        *norm("norm", "norm"),
        *(linear("head", "head") if config.num_classes else []),
    ]


def _timm_feed_forward(theirs: str, ours: str, t: TransformerConfig) -> list[Entry]:
    if t.activation != "swiglu":
        return mlp(theirs, ours)
    return [
        *linear(f"{theirs}.fc1_g", f"{ours}/gate"),
        *linear(f"{theirs}.fc1_x", f"{ours}/up"),
        *linear(f"{theirs}.fc2", f"{ours}/down"),
    ]


DINOV3 = Family(
    name="DINOv3",
    format="hf",
    recognizes=has_model_type("dinov3_vit"),
    read_config=read_dinov3,
    write_config=write_dinov3,
    entries=dinov3_entries,
    ignored=IGNORED,
)

TIMM_DINOV3 = Family(
    name="timm DINOv3",
    format="timm",
    recognizes=is_timm_dinov3,
    read_config=read_timm_dinov3,
    write_config=write_timm_dinov3,
    entries=timm_dinov3_entries,
    ignored=IGNORED,
)
