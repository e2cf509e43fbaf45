"""Families of images: what published configs mean, what is refused. Numbers: test_golden.py and test_round_trips.py."""

import json
from dataclasses import replace
from typing import Any

import jax
import pytest

import vitjax
from tests.weights.golden_cases import WEIGHTS
from vitjax.nn.functional import abstract
from vitjax.parallel.paths import named_leaves
from vitjax.weights.beit import BEIT, TIMM_BEIT
from vitjax.weights.checkpoint import open_checkpoint
from vitjax.weights.clip import CLIP
from vitjax.weights.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from vitjax.weights.dinov3 import DINOV3, TIMM_DINOV3
from vitjax.weights.family import Family
from vitjax.weights.resnet import RESNET, TIMM_RESNET
from vitjax.weights.siglip import SIGLIP
from vitjax.weights.siglip2 import SIGLIP2
from vitjax.weights.table import Table
from vitjax.weights.tensors import TensorSpec


def specs(**shapes: tuple[int, ...]) -> dict[str, TensorSpec]:
    """Arrays as a file would have them; `__` stands for a dot."""
    return {name.replace("__", "."): TensorSpec(shape, "float32", "file") for name, shape in shapes.items()}


# What the config.json of a published checkpoint says beyond its model_type, and how many numbers its image model has:
# timm counts the same.
PUBLISHED: dict[str, tuple[Family, dict[str, Any], dict[str, TensorSpec], int]] = {
    "siglip-so400m-patch14-384": (
        SIGLIP,
        {
            "vision_config": {
                "hidden_size": 1152,
                "image_size": 384,  # 27 patches and 6 pixels
                "intermediate_size": 4304,
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "patch_size": 14,
            }
        },
        {},
        428_225_600,
    ),
    "siglip-base-patch16-224": (SIGLIP, {"vision_config": {}}, {}, 92_884_224),
    "clip-vit-large-patch14": (
        CLIP,
        {
            "vision_config": {"hidden_size": 768},  # overruled
            "vision_config_dict": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
            },
        },
        specs(visual_projection__weight=(768, 1024)),
        303_966_976 - 768,  # timm's head has a bias
    ),
    "dinov2-giant": (
        DINOV2,
        {
            "hidden_size": 1536,
            "image_size": 518,
            "num_attention_heads": 24,
            "num_hidden_layers": 40,
            "use_swiglu_ffn": True,
        },
        {},
        1_136_479_232,
    ),
    "dinov2-with-registers-small": (
        DINOV2_WITH_REGISTERS,
        {"hidden_size": 384, "image_size": 518, "num_attention_heads": 6, "patch_size": 14},
        {},
        22_057_344 + 384,  # timm adds up the class token and its position
    ),
    "dinov3-vits16plus": (
        DINOV3,
        {"hidden_act": "silu", "use_gated_mlp": True, "num_register_tokens": 4},
        {},
        28_692_480,
    ),
    "dinov3-vit7b16": (
        DINOV3,
        {
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_register_tokens": 4,
            "query_bias": False,
            "use_gated_mlp": True,
            "value_bias": False,
        },
        {},
        6_716_030_976,
    ),
    "beit-large-patch16-224": (
        BEIT,
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "layer_scale_init_value": 0.1,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "use_relative_position_bias": True,
        },
        specs(classifier__weight=(1000, 1024)),
        304_430_568,
    ),
    "resnet-50": (RESNET, {}, specs(classifier__1__weight=(1000, 2048)), 25_557_032),
    "resnet-18": (
        RESNET,
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
        specs(classifier__1__weight=(1000, 512)),
        11_689_512,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    family, fields, heads, count = PUBLISHED[name]
    config = family.read_config(fields, heads)
    _, params, _ = abstract(lambda rngs: config.build(rngs=rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert family.read_config(family.write_config(config), heads) == config


def fields_of(name: str, **changed: Any) -> dict[str, Any]:
    return json.loads((WEIGHTS / name / "config.json").read_text()) | changed


def config_of(name: str, **changed: Any) -> Any:
    """The model that a golden folder would be with another config.json."""
    checkpoint = open_checkpoint(WEIGHTS / name)
    return checkpoint.family.read_config(fields_of(name, **changed), checkpoint.tensors.specs)


@pytest.mark.parametrize(
    "name", ["beit_hf", "dinov2_hf", "dinov2_registers_hf", "dinov3_hf", "clip_hf", "siglip_hf"]
)
def test_the_activation_is_the_configs(name: str) -> None:
    for theirs, ours in {"gelu": "gelu", "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu"}.items():
        assert config_of(name, hidden_act=theirs).transformer.activation == ours
    with pytest.raises(ValueError, match="hidden_act is 'mish': expected one of gelu, "):
        config_of(name, hidden_act="mish")


def test_families_that_resample_in_their_own_way() -> None:
    ways = {
        "dinov2_hf": "bicubic",
        "dinov2_registers_hf": "bicubic_antialias",
        "dinov2_timm": "bicubic_antialias",
        "siglip_hf": "bicubic",
        "siglip2_naflex_hf": "bilinear_antialias",
    }
    for name, way in ways.items():
        assert open_checkpoint(WEIGHTS / name).config.position_interpolation == way, name
    assert open_checkpoint(WEIGHTS / "beit_hf").config.relative_interpolation == "bilinear"
    assert open_checkpoint(WEIGHTS / "beit_timm").config.relative_interpolation == "linear_geometric"


def test_beit_that_names_visual_tokens_is_an_encoder_with_a_last_norm() -> None:
    fields = {"use_shared_relative_position_bias": True, "use_mask_token": True}
    config = BEIT.read_config(fields, specs(layernorm__weight=(768,), lm_head__weight=(8192, 768)))
    assert (config.pooling, config.final_norm, config.num_classes) == ("none", "tokens", 0)
    assert (config.positions, config.relative_tables) == ("relative", "shared")
    with pytest.raises(ValueError, match="is pretrained only, and read only"):
        BEIT.write_config(config)


def test_heads_of_timms_dinov3_are_64_wide_but_the_7bs() -> None:
    shapes = {
        "patch_embed__proj__weight": (4096, 3, 16, 16),
        "blocks__0__mlp__fc2__weight": (4096, 8192),
        "blocks__0__gamma_1": (4096,),
    }
    fields = {"architecture": "vit_7b_patch16_dinov3", "global_pool": "avg"}
    config = TIMM_DINOV3.read_config(fields, specs(**shapes))
    assert (config.transformer.num_heads, config.transformer.qkv_bias, config.registers) == (32, "none", 0)


REFUSED: list[tuple[Family, dict[str, Any], dict[str, TensorSpec], str]] = [
    (BEIT, {}, specs(decode_head__classifier__weight=(3, 8, 1, 1)), "this BEiT segments images"),
    (
        BEIT,
        {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
        {},
        "expected one of them",
    ),
    (DINOV3, {"key_bias": True, "query_bias": False}, {}, r"are \(False, True, True\): expected one of"),
    (DINOV3, {"hidden_act": "relu", "use_gated_mlp": True}, {}, "use_gated_mlp with hidden_act 'relu'"),
    (DINOV3, {"mlp_bias": False}, {}, "mlp_bias is False: only True is supported"),
    (SIGLIP2, {"vision_config": {"num_patches": 200}}, {}, "num_patches is 200: expected a square"),
    (RESNET, {"hidden_act": "gelu"}, {}, "hidden_act is 'gelu': only 'relu' is supported"),
    (RESNET, {"hidden_sizes": [10, 20], "depths": [1, 1]}, {}, r"\[10, 20\]: expected multiples of 4"),
    (
        TIMM_BEIT,
        {"architecture": "beit_base_patch16_224", "global_pool": "max"},
        specs(patch_embed__proj__weight=(8, 3, 4, 4), blocks__0__mlp__fc2__weight=(8, 12)),
        "global_pool is 'max': expected one of",
    ),
]


@pytest.mark.parametrize(("family", "fields", "arrays", "message"), REFUSED)
def test_what_is_not_supported_is_said(family, fields, arrays, message) -> None:
    with pytest.raises(ValueError, match=message):
        family.read_config(fields, arrays)


def test_what_a_format_cannot_hold_is_said() -> None:
    resnet = open_checkpoint(WEIGHTS / "resnet_hf").config
    with pytest.raises(ValueError, match="timm's ResNet has 64 features in its stem, not 12"):
        TIMM_RESNET.write_config(resnet)
    with pytest.raises(ValueError, match="not with a stem 'small'"):
        RESNET.write_config(replace(resnet, stem="small"))
    dinov2 = open_checkpoint(WEIGHTS / "dinov2_hf").config
    odd = replace(dinov2, transformer=replace(dinov2.transformer, feed_forward_width=50))
    with pytest.raises(ValueError, match="DINOv2 at width 24 has no feed_forward_width 50"):
        DINOV2.write_config(odd)
    plain = replace(dinov2, transformer=replace(dinov2.transformer, layer_scale=None))
    for family in (DINOV2, DINOV3, TIMM_DINOV3):
        with pytest.raises(ValueError, match="has a layer scale"):
            family.write_config(plain)
    for family in (BEIT, CLIP, SIGLIP, SIGLIP2, TIMM_BEIT):
        with pytest.raises(ValueError, match="is no resnet"):
            family.write_config(resnet)


CASES = ["beit_hf", "clip_hf", "dinov2_hf", "dinov3_hf", "resnet_hf", "siglip_hf", "siglip2_naflex_hf"]


@pytest.mark.parametrize("name", CASES)
def test_every_array_is_demanded_and_no_other_taken(name: str) -> None:
    checkpoint = open_checkpoint(WEIGHTS / name)
    view, family = checkpoint.tensors.specs, checkpoint.family
    for missing in list(checkpoint.table.expected)[::7]:
        rest = {other: spec for other, spec in view.items() if other != missing}
        with pytest.raises(ValueError, match=f"{name}: {missing} is missing: expected "):
            checkpoint.table.check(rest, family.ignored, name)
    with pytest.raises(ValueError, match=r"file: lora.up \[4, 2\] is not part of this model"):
        checkpoint.table.check({**view, **specs(lora__up=(4, 2))}, family.ignored, name)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_that_says_it_is_another_family(name: str, tmp_path) -> None:
    other = CASES[CASES.index(name) - 1]
    (tmp_path / "config.json").write_text((WEIGHTS / other / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((WEIGHTS / name / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r": .* (is missing|is .*): expected ") as error:
        vitjax.load(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_the_table_of_every_published_model_is_complete() -> None:
    """Names and our parameters match one to one, whatever the size."""
    for family, fields, heads, _ in PUBLISHED.values():
        config = family.read_config(fields, heads)
        if config.kind == "vision_transformer":
            config = replace(config, transformer=replace(config.transformer, depth=1))
        _, params, stats = abstract(lambda rngs, config=config: config.build(rngs=rngs))
        named = named_leaves(params) | named_leaves(stats)
        assert set(Table(family.entries(config), named).pieces) == set(named)
