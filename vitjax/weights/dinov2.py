"""DINOv2 as transformers writes it, without and with registers: the models alone, and their linear classifiers.

Names are those on disk; in memory transformers 5 has others. timm's DINOv2 is among the ViTs of `timm_vit`.
"""

from dataclasses import replace
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.table import Entry
from vitjax.weights.torch_layers import linear, norm
from vitjax.weights.vit import PRETRAINING, attention_entries, embedding_entries, read_vit, write_fields

DEFAULTS = {"patch_size": 14, "layer_norm_eps": 1e-6}
REGISTERS_DEFAULTS = {"patch_size": 16, "layer_norm_eps": 1e-6, "num_register_tokens": 4}


def read_dinov2(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model of a config.json without registers."""
    fields = {**DEFAULTS, **fields}
    width, gated = fields.get("hidden_size", 768), fields.get("use_swiglu_ffn", False)
    hidden = feed_forward_width(width, float(fields.get("mlp_ratio", 4)), gated=gated)
    config = read_vit({**fields, "intermediate_size": hidden}, specs)
    transformer = replace(config.transformer, layer_scale=float(fields.get("layerscale_value", 1.0)))
    return replace(
        config,
        transformer=replace(transformer, activation="swiglu") if gated else transformer,
        pooling="cls_mean" if config.num_classes else "cls",
    )


def read_with_registers(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model of a config.json with registers, which resamples positions in another way."""
    fields = {**REGISTERS_DEFAULTS, **fields}
    return replace(
        read_dinov2(fields, specs),
        registers=fields["num_register_tokens"],
        position_interpolation="bicubic_antialias",
    )


def feed_forward_width(width: int, ratio: int | float, *, gated: bool) -> int:
    """Of gated blocks two thirds, rounded up to a multiple of eight."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def write_dinov2(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_dinov2`."""
    return {**_write(config, "Dinov2"), "model_type": "dinov2", "use_mask_token": False}


def write_with_registers(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_with_registers`."""
    fields = _write(config, "Dinov2WithRegisters")
    assert isinstance(config, VisionTransformerConfig)
    return {**fields, "model_type": "dinov2_with_registers", "num_register_tokens": config.registers}


def _write(config: ModelConfig, name: str) -> dict[str, Any]:
    if not isinstance(config, VisionTransformerConfig) or config.transformer.layer_scale is None:
        raise ValueError("DINOv2 has a layer scale")
    t, gated = config.transformer, config.transformer.activation == "swiglu"
    ratios = (
        r for r in range(1, 17) if feed_forward_width(t.width, float(r), gated=gated) == t.feed_forward_width
    )
    ratio = next(ratios, None)
    if ratio is None:
        raise ValueError(f"DINOv2 at width {t.width} has no feed_forward_width {t.feed_forward_width}")
    fields = write_fields(replace(config, transformer=replace(t, activation="gelu")) if gated else config)
    del fields["intermediate_size"]
    return {
        **fields,
        "architectures": [f"{name}{'ForImageClassification' if config.num_classes else 'Model'}"],
        "mlp_ratio": ratio,
        "use_swiglu_ffn": gated,
        "layerscale_value": t.layer_scale,
    }


def dinov2_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table."""
    theirs, ours = "encoder.layer.{layer}", "blocks"
    return [
        *embedding_entries(config),
        *([Entry("embeddings.register_tokens", "registers")] if config.registers else []),
        *norm(f"{theirs}.norm1", f"{ours}/attention_sublayer/norm"),
        *attention_entries(config.transformer),
        Entry(f"{theirs}.layer_scale1.lambda1", f"{ours}/attention_sublayer/layer_scale/scale"),
        *norm(f"{theirs}.norm2", f"{ours}/feed_forward_sublayer/norm"),
        *_feed_forward(f"{theirs}.mlp", f"{ours}/feed_forward", config.transformer.activation == "swiglu"),
        Entry(f"{theirs}.layer_scale2.lambda1", f"{ours}/feed_forward_sublayer/layer_scale/scale"),
        *norm("layernorm", "norm"),
        *(linear("classifier", "head") if config.num_classes else []),
    ]


def _feed_forward(theirs: str, ours: str, gated: bool) -> list[Entry]:
    if not gated:
        return [*linear(f"{theirs}.fc1", f"{ours}/up"), *linear(f"{theirs}.fc2", f"{ours}/down")]
    return [
        Entry(
            f"{theirs}.weights_in.weight", (f"{ours}/gate/kernel", f"{ours}/up/kernel"), "out in -> in out"
        ),
        Entry(f"{theirs}.weights_in.bias", (f"{ours}/gate/bias", f"{ours}/up/bias")),
        *linear(f"{theirs}.weights_out", f"{ours}/down"),
    ]


DINOV2 = Family(
    name="DINOv2",
    format="hf",
    recognizes=has_model_type("dinov2"),
    read_config=read_dinov2,
    write_config=write_dinov2,
    entries=dinov2_entries,
    prefix="dinov2.",
    heads=("classifier.",),
    ignored=PRETRAINING,
)

DINOV2_WITH_REGISTERS = Family(
    name="DINOv2 with registers",
    format="hf",
    recognizes=has_model_type("dinov2_with_registers"),
    read_config=read_with_registers,
    write_config=write_with_registers,
    entries=dinov2_entries,
    prefix="dinov2_with_registers.",
    heads=("classifier.",),
    ignored=PRETRAINING,
)
