"""Cases of ResNet, transformers' and timm's."""

from pathlib import Path

import torch
from transformers import ResNetConfig, ResNetForImageClassification

from tests.golden.reference_case import Sizes, case, pixels, randomise, to_torch
from tests.golden.reference_hf import IMAGENET, facts, labels, processor, saved
from tests.golden.reference_timm import facts as timm_facts
from tests.golden.reference_timm import saved as timm_saved
from tests.golden.reference_timm import timm

SIZES = {"image": 36, "other": (66, 34)}


def channels_last(feature_map: torch.Tensor) -> torch.Tensor:
    """[B, D, h, w] to [B, h*w, D]."""
    return feature_map.flatten(2).transpose(1, 2)


def both(features, seed: int, sizes: Sizes) -> dict:
    """At both sizes; `features(images)` gives a feature map, its mean and logits."""
    found = {}
    for prefix, size in (("", (sizes.image, sizes.image, 2)), ("other_", (*sizes.other, 1))):
        images = pixels(seed, *size)
        feature_map, pooled, logits = features(to_torch(images))
        found |= {f"{prefix}pixels": images, f"{prefix}tokens": channels_last(feature_map)}
        found |= {f"{prefix}pooled": pooled.flatten(1), f"{prefix}logits": logits}
    return found


def resnet_hf_of(folder: Path, seed: int, sizes: Sizes, step: int, **options):
    width = sizes.width // 4 * 4
    config = ResNetConfig(
        embedding_size=width // 2,
        hidden_sizes=[width + step * stage for stage in range(4)],
        depths=[1, 2, 1, 1],
        **options,
        **labels(sizes.labels),
    )
    model = randomise(ResNetForImageClassification(config), seed, gain=1.0)
    size = {"shortest_edge": sizes.image}
    fields = processor(
        "ConvNextImageProcessor", sizes.image, resample=3, crop_pct=0.875, size=size, **IMAGENET
    )
    model = saved(model, folder, fields)

    def features(images):
        computed = model.resnet(images)
        return computed.last_hidden_state, computed.pooler_output, model(images).logits

    return both(features, seed, sizes), facts(model)


def resnet_timm_of(folder: Path, seed: int, sizes: Sizes, architecture: str):
    base = sizes.width // 6
    model = timm.create_model(
        architecture,
        layers=(1, 2, 1, 1),
        channels=(base, base + 2, base + 4, base + 5),
        stem_width=8,
        num_classes=sizes.labels,
    )
    randomise(model, seed, gain=1.0)
    model = timm_saved(model, folder)

    def features(images):
        feature_map = model.forward_features(images)
        return feature_map, model.forward_head(feature_map, pre_logits=True), model.forward_head(feature_map)

    return both(features, seed, sizes), timm_facts(model)


@case(seed=81, **SIZES)
def resnet_hf(folder: Path, seed: int, sizes: Sizes):
    """microsoft/resnet-50: bottlenecks."""
    return resnet_hf_of(folder, seed, sizes, layer_type="bottleneck", step=4)


@case(seed=82, **SIZES, width=8)
def resnet_hf_basic(folder: Path, seed: int, sizes: Sizes):
    """microsoft/resnet-18."""
    return resnet_hf_of(folder, seed, sizes, layer_type="basic", step=1)


@case(seed=83, **SIZES)
def resnet_timm(folder: Path, seed: int, sizes: Sizes):
    return resnet_timm_of(folder, seed, sizes, "resnet50")


@case(seed=84, **SIZES, width=12)
def resnet_timm_basic(folder: Path, seed: int, sizes: Sizes):
    return resnet_timm_of(folder, seed, sizes, "resnet18")
