"""Cases of transformers' DINOv2, with registers and without, and DINOv3."""

from pathlib import Path

from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from tests.golden.reference_case import Sizes, case, randomise
from tests.golden.reference_hf import IMAGENET, both_sizes, encoder, facts, labels, processor, saved


def dinov2_fields(sizes: Sizes, **options) -> dict:
    """DINOv2's configs say the feed-forward's width as a ratio."""
    fields = encoder(sizes, mlp_ratio=2, layerscale_value=1.0, **options)
    del fields["intermediate_size"]
    return fields


def dinov2_processor(sizes: Sizes) -> dict:
    return processor(
        "BitImageProcessor",
        sizes.image,
        resample=3,
        do_convert_rgb=True,
        do_center_crop=True,
        size={"shortest_edge": round(sizes.image * 256 / 224)},
        crop_size={"height": sizes.image, "width": sizes.image},
        **IMAGENET,
    )


@case(seed=61, layers=1)
def dinov2_hf(folder: Path, seed: int, sizes: Sizes):
    model = randomise(Dinov2Model(Dinov2Config(**dinov2_fields(sizes))), seed)
    model = saved(model, folder, dinov2_processor(sizes))
    return both_sizes(model, seed, sizes), facts(model)


@case(seed=62, layers=1, other=(20, 35))
def dinov2_hf_classifier(folder: Path, seed: int, sizes: Sizes):
    """The classifier reads the class token beside the patches' mean."""
    config = Dinov2Config(**dinov2_fields(sizes), **labels(sizes.labels))
    model = randomise(Dinov2ForImageClassification(config), seed)
    model = saved(model, folder, dinov2_processor(sizes))
    return both_sizes(model, seed, sizes, model.dinov2), facts(model)


@case(seed=63)
def dinov2_registers_hf(folder: Path, seed: int, sizes: Sizes):
    fields = dinov2_fields(sizes, num_register_tokens=4)
    config = Dinov2WithRegistersConfig(**fields, **labels(sizes.labels))
    model = randomise(Dinov2WithRegistersForImageClassification(config), seed)
    model = saved(model, folder, dinov2_processor(sizes))
    return both_sizes(model, seed, sizes, model.dinov2_with_registers), facts(model)


@case(seed=64)
def dinov2_giant_hf(folder: Path, seed: int, sizes: Sizes):
    """SwiGLU, of two thirds of the width, rounded up to a multiple of eight."""
    model = randomise(Dinov2Model(Dinov2Config(**dinov2_fields(sizes, use_swiglu_ffn=True))), seed, gain=0.8)
    model = saved(model, folder, dinov2_processor(sizes))
    return both_sizes(model, seed, sizes), facts(model)


def dinov3(folder: Path, seed: int, sizes: Sizes, gain: float = 1.2, **options):
    config = DINOv3ViTConfig(**encoder(sizes, num_register_tokens=4, **options))
    model = randomise(DINOv3ViTModel(config), seed, gain=gain)
    model = saved(model, folder, processor("DINOv3ViTImageProcessorFast", sizes.image, **IMAGENET))
    return both_sizes(model, seed, sizes), facts(model)


@case(seed=65)
def dinov3_hf(folder: Path, seed: int, sizes: Sizes):
    return dinov3(folder, seed, sizes)


@case(seed=66, layers=1)
def dinov3_gated_hf(folder: Path, seed: int, sizes: Sizes):
    """As the huge and the 7B are: a gated feed-forward, of SiLU."""
    return dinov3(folder, seed, sizes, gain=0.8, use_gated_mlp=True, hidden_act="silu")
