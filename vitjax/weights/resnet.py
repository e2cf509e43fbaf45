"""ResNets, as transformers writes them, `ResNetModel`, `ResNetForImageClassification`, and as timm does, `resnet50`."""

import re
from collections.abc import Callable
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.nn.convolution import EXPANSION, ResidualKind
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import demand, num_labels
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import linear

IGNORED = (Ignored(r".*num_batches_tracked", "counts the batches of training"),)


def read_resnet(fields: Fields, specs: Specs) -> ResNetConfig:
    """The model of transformers' config.json, which counts the features that blocks give."""
    demand(fields, hidden_act="relu")
    block: ResidualKind = "bottleneck" if fields.get("layer_type", "bottleneck") == "bottleneck" else "basic"
    features = tuple(fields.get("hidden_sizes", (256, 512, 1024, 2048)))
    if any(count % EXPANSION[block] for count in features):
        raise ValueError(f"hidden_sizes are {list(features)}: expected multiples of {EXPANSION[block]}")
    head = specs.get("classifier.1.weight")
    return _resnet(
        depths=tuple(fields.get("depths", (3, 4, 6, 3))),
        widths=tuple(count // EXPANSION[block] for count in features),
        block=block,
        stem_features=fields.get("embedding_size", 64),
        halve_first_stage=fields.get("downsample_in_first_stage", False),
        stride_first=block == "bottleneck" and fields.get("downsample_in_bottleneck", False),
        channels=fields.get("num_channels", 3),
        num_classes=head.shape[0] if head else 0,
    )


def _resnet(*, stem_features: int, widths: tuple[int, ...], **options: Any) -> ResNetConfig:
    """Says a stem's width only where it is not the first stage's."""
    stem = None if stem_features == widths[0] else stem_features
    return ResNetConfig(widths=widths, stem_width=stem, **options)


def write_resnet(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_resnet`."""
    config = _of_imagenet(config)
    return {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification" if config.num_classes else "ResNetModel"],
        "layer_type": config.block,
        "embedding_size": config.stem_features,
        "hidden_sizes": [EXPANSION[config.block] * width for width in config.widths],
        "depths": list(config.depths),
        "hidden_act": "relu",
        "downsample_in_first_stage": config.halve_first_stage,
        "downsample_in_bottleneck": config.stride_first,
        "num_channels": config.channels,
        **num_labels(config.num_classes),
    }


def _of_imagenet(config: ModelConfig) -> ResNetConfig:
    if not isinstance(config, ResNetConfig):
        raise ValueError(f"ResNet is no {config.kind}")
    if config.stem != "imagenet":
        raise ValueError(f"published ResNets begin with a 7x7 convolution, not with a stem {config.stem!r}")
    return config


def resnet_entries(config: ResNetConfig) -> list[Entry]:
    """transformers' whole table."""
    head = linear("classifier.1", "head") if config.num_classes else []

    def names(stage: int, block: int, part: str) -> tuple[str, str]:
        layer = f"encoder.stages.{stage}.layers.{block}"
        inner = f"{layer}.shortcut" if part == "shortcut" else f"{layer}.layer.{int(part) - 1}"
        return f"{inner}.convolution", f"{inner}.normalization"

    stem = ("embedder.embedder.convolution", "embedder.embedder.normalization")
    return [*_convolution(*stem, "", "_stem"), *_blocks(config, names), *head]


def _blocks(config: ResNetConfig, names: Callable[[int, int, str], tuple[str, str]]) -> list[Entry]:
    """Every convolution of every block and the norm behind it; `names` are theirs, of stages counted from 0."""
    entries, features = [], config.stem_features
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        for block in range(depth):
            parts = ["1", "2", "3"] if config.block == "bottleneck" else ["1", "2"]
            halves = block == 0 and config.stage_strides[stage] != 1
            if halves or features != EXPANSION[config.block] * width:
                parts.append("shortcut")
            features = EXPANSION[config.block] * width
            for part in parts:
                ours = f"stage{stage + 1}_block{block}/"
                name = f"_{part}" if part == "shortcut" else part
                entries += _convolution(*names(stage, block, part), ours, name)
    return entries


def _convolution(convolution: str, batch_norm: str, where: str, name: str) -> list[Entry]:
    """A convolution without bias, and its norm with running statistics."""
    kernel, norm = (f"{where}{kind}{name}" for kind in ("conv", "norm"))
    return [
        Entry(f"{convolution}.weight", f"{kernel}/kernel", "out in h w -> h w in out"),
        Entry(f"{batch_norm}.weight", f"{norm}/scale"),
        Entry(f"{batch_norm}.bias", f"{norm}/bias"),
        Entry(f"{batch_norm}.running_mean", f"{norm}/mean"),
        Entry(f"{batch_norm}.running_var", f"{norm}/var"),
    ]


def is_timm_resnet(fields: Fields, specs: Specs) -> bool:
    """Whether config.json names one of timm's with the plain stem and shortcuts: no letter behind the number."""
    return re.fullmatch(r"resnet\d+", str(fields.get("architecture", ""))) is not None


def read_timm_resnet(fields: Fields, specs: Specs) -> ResNetConfig:
    """The model, of the arrays."""
    demand(fields, global_pool="avg")
    places = {(int(m[1]), int(m[2])) for name in specs if (m := re.match(r"layer(\d+)\.(\d+)\.", name))}
    stages = range(1, 1 + max((stage for stage, _ in places), default=0))
    head = specs.get("fc.weight")
    stem, channels, *_ = specs["conv1.weight"].shape
    return _resnet(
        depths=tuple(sum(stage == each for each, _ in places) for stage in stages),
        widths=tuple(specs[f"layer{stage}.0.conv1.weight"].shape[0] for stage in stages),
        block="bottleneck" if "layer1.0.conv3.weight" in specs else "basic",
        stem_features=stem,
        channels=channels,
        num_classes=head.shape[0] if head else 0,
    )


def write_timm_resnet(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_timm_resnet`."""
    config = _of_imagenet(config)
    if config.stem_features != 64:
        raise ValueError(f"timm's ResNet has 64 features in its stem, not {config.stem_features}")
    return {
        "architecture": "resnet50" if config.block == "bottleneck" else "resnet18",
        "num_classes": config.num_classes,
        "num_features": config.output_width,
        "global_pool": "avg",
        "model_args": {
            "layers": list(config.depths),
            "channels": list(config.widths),
            "in_chans": config.channels,
            "num_classes": config.num_classes,
        },
    }


def timm_resnet_entries(config: ResNetConfig) -> list[Entry]:
    """timm's whole table."""

    def names(stage: int, block: int, part: str) -> tuple[str, str]:
        layer = f"layer{stage + 1}.{block}"
        if part == "shortcut":
            return f"{layer}.downsample.0", f"{layer}.downsample.1"
        return f"{layer}.conv{part}", f"{layer}.bn{part}"

    head = linear("fc", "head") if config.num_classes else []
    return [*_convolution("conv1", "bn1", "", "_stem"), *_blocks(config, names), *head]


RESNET = Family(
    name="ResNet",
    format="hf",
    recognizes=has_model_type("resnet"),
    read_config=read_resnet,
    write_config=write_resnet,
    entries=resnet_entries,
    prefix="resnet.",
    heads=("classifier.",),
    ignored=IGNORED,
)

TIMM_RESNET = Family(
    name="timm ResNet",
    format="timm",
    recognizes=is_timm_resnet,
    read_config=read_timm_resnet,
    write_config=write_timm_resnet,
    entries=timm_resnet_entries,
    ignored=IGNORED,
)
