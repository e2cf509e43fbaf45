"""Cases of transformers' ViT, DeiT and MAE."""

from pathlib import Path

import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

from tests.golden.reference_case import Sizes, case, pixels, randomise
from tests.golden.reference_hf import (
    HALVES,
    IMAGENET,
    INTERPOLATE,
    both_sizes,
    encoder,
    facts,
    labels,
    outputs,
    processor,
    rename,
    saved,
)


@case(seed=1)
def vit_hf(folder: Path, seed: int, sizes: Sizes):
    config = ViTConfig(**encoder(sizes), **labels(sizes.labels))
    model = randomise(ViTForImageClassification(config), seed)
    model = saved(model, folder, processor("ViTImageProcessor", sizes.image, **HALVES))
    return both_sizes(model, seed, sizes, model.vit, **INTERPOLATE), facts(model)


@case(seed=2, width=28, heads=4, patch=5, other=(20, 35))
def vit_hf_headless(folder: Path, seed: int, sizes: Sizes):
    config = ViTConfig(**encoder(sizes, qkv_bias=False, hidden_act="gelu_pytorch_tanh"))
    model = randomise(ViTModel(config), seed)
    model = saved(model, folder, processor("ViTImageProcessor", sizes.image, **HALVES))
    return both_sizes(model, seed, sizes, **INTERPOLATE), facts(model)


@case(seed=3)
def deit_hf(folder: Path, seed: int, sizes: Sizes):
    config = DeiTConfig(**encoder(sizes), **labels(sizes.labels))
    model = randomise(DeiTForImageClassification(config), seed)
    model = saved(model, folder, deit_processor(sizes))
    return both_sizes(model, seed, sizes, model.deit, **INTERPOLATE), facts(model)


@case(seed=4)
def deit_hf_distilled(folder: Path, seed: int, sizes: Sizes):
    config = DeiTConfig(**encoder(sizes), **labels(sizes.labels))
    model = randomise(DeiTForImageClassificationWithTeacher(config), seed)
    model = saved(model, folder, deit_processor(sizes))
    return both_sizes(model, seed, sizes, model.deit, **INTERPOLATE), facts(model)


def deit_processor(sizes: Sizes) -> dict:
    resized = round(sizes.image * 256 / 224)
    return processor(
        "DeiTImageProcessor",
        resized,
        resample=3,
        do_center_crop=True,
        crop_size={"height": sizes.image, "width": sizes.image},
        **IMAGENET,
    )


@case(seed=5, layers=1)
def mae_hf(folder: Path, seed: int, sizes: Sizes):
    """facebook/vit-mae-*: saved with its decoder; the encoder sees every patch, in order."""
    decoder = {
        "decoder_hidden_size": sizes.width // 2,
        "decoder_num_attention_heads": sizes.heads,
        "decoder_num_hidden_layers": 1,
        "decoder_intermediate_size": sizes.hidden // 2,
    }
    model = randomise(ViTMAEForPreTraining(ViTMAEConfig(**encoder(sizes), **decoder)), seed)
    names = {
        "decoder.decoder_encoder.layer": "decoder.decoder_layers"
    }  # which transformers 5.23 saves wrongly
    fields = processor("ViTImageProcessor", sizes.image, **IMAGENET)
    model = saved(model, folder, fields, lambda folder: rename(folder, names))
    model.vit.config.mask_ratio = 0.0

    def computed(height: int, width: int, prefix: str = "", **options) -> dict:
        patches = (height // sizes.patch) * (width // sizes.patch)
        images = pixels(seed, height, width, 1 if prefix else 2)
        order = torch.arange(patches).expand(len(images), -1)
        return outputs(model.vit, images, prefix, noise=order, **options)

    small = computed(sizes.image, sizes.image)
    return small | computed(*sizes.other, prefix="other_", **INTERPOLATE), facts(model)
