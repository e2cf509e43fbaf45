"""The .npz files of vision_transformer (2020: ViT, AugReg) and of big_vision (2022: plain ViT, SigLIP's image tower).

Their names are ours but for the blocks. There is no configuration: sizes are in the arrays, images are square, GELU is
flax's (tanh), epsilon 1e-6, other image sizes get positions by SciPy's `zoom`.
"""

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.weights.family import Family, Fields, Specs
from vitjax.weights.table import Entry, Ignored

BLOCK = "Transformer/encoderblock"


def read_big_vision(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model, from the arrays alone; a class token is pooled if there is one, else all patches are."""
    rows, columns, channels, width = specs["embedding/kernel"].shape
    query, up = (specs[_one_block(specs, name)].shape for name in ("query/kernel", "Dense_0/kernel"))
    numbers = [int(m[1]) for name in specs if (m := re.match(BLOCK + r"_(\d+)/", name))]
    positions = specs[_positions(specs)].shape[1]
    side = math.isqrt(positions)
    prefix = int("cls" in specs and side * side != positions)
    side = math.isqrt(positions - prefix)
    if side * side + prefix != positions:
        raise ValueError(f"{positions} positions are no square grid, with or without a class token")
    head = specs.get("head/kernel")
    return VisionTransformerConfig(
        transformer=TransformerConfig(
            width=width,
            depth=1 + max(numbers) if numbers else query[0],
            num_heads=query[-2],
            feed_forward_width=up[-1],
            activation="gelu_tanh",
        ),
        image_size=(side * rows, side * columns),
        patch_size=(rows, columns),
        channels=channels,
        num_classes=head.shape[1] if head else 0,
        position_interpolation="linear_corners",
        class_token="cls" in specs,
        prefix_positions=prefix,
        pooling="attention" if "MAPHead_0/probe" in specs else "cls" if "cls" in specs else "mean",
        pooler="pre_logits/kernel" in specs,
    )


def write_big_vision(config: ModelConfig) -> dict[str, Any]:
    """Nothing: an .npz has no config.json, `read_big_vision` of the arrays must say it all."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"big_vision's ViT is no {config.kind}")
    return {}


@dataclass(frozen=True)
class _Names:
    """What differs between the files: the blocks' name, the names inside a block, where the positions are."""

    block: str
    attention: str = "MultiHeadDotProductAttention_0"
    second_norm: str = "LayerNorm_1"
    mlp: str = "MlpBlock_0"
    positions: str = "pos_embedding"


STACKED = _Names(BLOCK)
NUMBERED = _Names(BLOCK + "_{layer}")
OF_2020 = _Names(
    BLOCK + "_{layer}",
    attention="MultiHeadDotProductAttention_1",
    second_norm="LayerNorm_2",
    mlp="MlpBlock_3",
    positions="Transformer/posembed_input/pos_embedding",
)


def _entries(names: _Names, config: VisionTransformerConfig) -> list[Entry]:
    entries = [
        Entry(f"embedding/{leaf}", f"patch_embedding/projection/{leaf}") for leaf in ("kernel", "bias")
    ]
    blocks = {
        "attention_sublayer/norm": "LayerNorm_0",
        "feed_forward_sublayer/norm": names.second_norm,
        **{f"attention/{name}": f"{names.attention}/{name}" for name in ("query", "key", "value", "out")},
        "feed_forward/up": f"{names.mlp}/Dense_0",
        "feed_forward/down": f"{names.mlp}/Dense_1",
    }
    for ours, theirs in blocks.items():
        leaves = ("scale", "bias") if ours.endswith("norm") else ("kernel", "bias")
        entries += [Entry(f"{names.block}/{theirs}/{leaf}", f"blocks/{ours}/{leaf}") for leaf in leaves]
    entries += [Entry(f"Transformer/encoder_norm/{leaf}", f"norm/{leaf}") for leaf in ("scale", "bias")]
    paths = ("positions/prefix", "positions/embedding")
    entries.append(
        Entry(names.positions, paths if config.prefix_positions else paths[1:], "1 N D -> N D", axis=1)
    )
    if config.class_token:
        entries.append(Entry("cls", "class_token"))
    layers = {"pre_logits": "pooler"} if config.pooler else {}
    if config.pooling == "attention":
        entries += [Entry("MAPHead_0/probe", "pool/probe")]
        entries += [Entry(f"MAPHead_0/LayerNorm_0/{leaf}", f"pool/norm/{leaf}") for leaf in ("scale", "bias")]
        layers |= {
            f"MAPHead_0/MultiHeadDotProductAttention_0/{name}": f"pool/attention/{name}"
            for name in ("query", "key", "value", "out")
        }
        layers |= {
            "MAPHead_0/MlpBlock_0/Dense_0": "pool/feed_forward/up",
            "MAPHead_0/MlpBlock_0/Dense_1": "pool/feed_forward/down",
        }
    if config.num_classes:
        layers["head"] = "head"
    for theirs, ours in layers.items():
        entries += [Entry(f"{theirs}/{leaf}", f"{ours}/{leaf}") for leaf in ("kernel", "bias")]
    return entries


def _one_block(specs: Specs, ending: str) -> str:
    """The name of an array of the first block, numbered or stacked."""
    names = [name for name in specs if re.match(BLOCK + r"(_0)?/", name) and name.endswith(ending)]
    if not names:
        raise ValueError(f"there is no {BLOCK}/.../{ending}")
    return names[0]


def _positions(specs: Specs) -> str:
    for name in ("Transformer/posembed_input/pos_embedding", "pos_embedding"):
        if name in specs:
            return name
    raise ValueError("there is no pos_embedding: only learned positions are supported")


def _family(name: str, names: _Names, prefix: str) -> Family:
    probe = names.block.format(layer=0)
    wanted = {
        f"{prefix}embedding/kernel",
        f"{prefix}{names.positions}",
        f"{prefix}{probe}/{names.attention}/query/kernel",
    }
    return Family(
        name=name,
        format="npz",
        recognizes=lambda fields, specs: not fields and wanted <= set(specs),
        read_config=read_big_vision,
        write_config=write_big_vision,
        entries=partial(_entries, names),
        prefix=prefix,
        ignored=(
            Ignored(r"(params/)?(t|b|txt/.*)", "the text tower of an image-text model"),
            Ignored(r"(opt|chrono|extra)/.*", "the state of its training"),
        ),
    )


VISION_TRANSFORMER = _family("vision_transformer .npz", OF_2020, "")
BIG_VISION = tuple(
    _family(f"big_vision .npz ({prefix}{names.block})", names, prefix)
    for names in (NUMBERED, STACKED)
    for prefix in ("params/img/", "params/", "img/", "")
)
