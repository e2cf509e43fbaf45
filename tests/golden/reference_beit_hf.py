"""Cases of transformers' BEiT."""

from pathlib import Path

import numpy as np
from transformers import BeitConfig, BeitForImageClassification, BeitModel

from tests.golden.reference_case import Sizes, case, randomise
from tests.golden.reference_hf import (
    HALVES,
    INTERPOLATE,
    add_tensors,
    both_sizes,
    encoder,
    facts,
    labels,
    processor,
    saved,
)


@case(seed=51)
def beit_hf(folder: Path, seed: int, sizes: Sizes):
    """microsoft/beit-base-patch16-224: relative positions in each layer, whose index older versions saved too."""
    config = BeitConfig(**encoder(sizes, use_relative_position_bias=True), **labels(sizes.labels))
    model = randomise(BeitForImageClassification(config), seed, gain=0.8)
    side = sizes.image // sizes.patch
    name = "beit.encoder.layer.{}.attention.attention.relative_position_bias.relative_position_index"
    index = np.zeros((side**2 + 1, side**2 + 1), np.int64)
    added = {name.format(layer): index for layer in range(sizes.layers)}
    model = saved(model, folder, beit_processor(sizes), lambda folder: add_tensors(folder, added))
    return both_sizes(model, seed, sizes, model.beit, **INTERPOLATE), facts(model)


@case(seed=52, layers=1)
def beit_hf_shared(folder: Path, seed: int, sizes: Sizes):
    """One table of relative positions for all layers, absolute ones beside it, a mask token, the class token pooled."""
    options = {
        "use_shared_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mask_token": True,
        "use_mean_pooling": False,
    }
    model = randomise(BeitModel(BeitConfig(**encoder(sizes, **options))), seed)
    model = saved(model, folder, beit_processor(sizes))
    return both_sizes(model, seed, sizes, **INTERPOLATE), facts(model)


def beit_processor(sizes: Sizes) -> dict:
    return processor("BeitImageProcessor", sizes.image, do_center_crop=False, **HALVES)
