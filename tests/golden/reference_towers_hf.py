"""Cases of the image towers of transformers' CLIP, SigLIP and SigLIP2, alone and beside their text towers."""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.golden.reference_case import Sizes, case, pixels, randomise
from tests.golden.reference_hf import (
    HALVES,
    INTERPOLATE,
    add_tensors,
    both_sizes,
    encoder,
    facts,
    processor,
    rename,
    saved,
)

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def text(sizes: Sizes) -> dict:
    """A text tower, which nothing here reads."""
    return {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
        "max_position_embeddings": 5,
        "projection_size": sizes.width,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }


def clip_processor(sizes: Sizes) -> dict:
    return processor(
        "CLIPImageProcessor",
        sizes.image,
        resample=3,
        do_center_crop=True,
        do_convert_rgb=True,
        size={"shortest_edge": sizes.image},
        crop_size={"height": sizes.image, "width": sizes.image},
        **CLIP,
    )


def siglip_processor(sizes: Sizes) -> dict:
    return processor("SiglipImageProcessor", sizes.image, resample=3, **HALVES)


@case(seed=71)
def clip_hf(folder: Path, seed: int, sizes: Sizes):
    model = randomise(CLIPVisionModel(CLIPVisionConfig(**encoder(sizes))), seed, gain=0.8)
    model = saved(model, folder, clip_processor(sizes))
    return both_sizes(model, seed, sizes, **INTERPOLATE), facts(model)


@case(seed=72, layers=1)
def clip_hf_full(folder: Path, seed: int, sizes: Sizes):
    """openai/clip-vit-*: beside the text tower; the erf form of GELU, as LAION's; an old file's position ids."""
    vision = encoder(sizes, hidden_act="gelu")
    config = CLIPConfig(vision_config=vision, text_config=text(sizes), projection_dim=6)
    model = CLIPModel(config)
    model.set_attn_implementation("eager")
    randomise(model, seed, gain=0.8)
    patches = (sizes.image // sizes.patch) ** 2
    ids = {"vision": np.arange(patches + 1)[None], "text": np.arange(5)[None]}
    added = {f"{name}_model.embeddings.position_ids": value for name, value in ids.items()}
    model = saved(model, folder, clip_processor(sizes), lambda folder: add_tensors(folder, added))
    return both_sizes(model.vision_model, seed, sizes, **INTERPOLATE), facts(model)


@case(seed=73)
def siglip_hf(folder: Path, seed: int, sizes: Sizes):
    model = randomise(SiglipVisionModel(SiglipVisionConfig(**encoder(sizes))), seed, gain=1.0)
    alone = {"": "vision_model."}  # as version 4 saved a tower alone; clip_hf is as version 5 does
    model = saved(model, folder, siglip_processor(sizes), lambda folder: rename(folder, alone))
    return both_sizes(model, seed, sizes, **INTERPOLATE), facts(model)


@case(seed=74, layers=1)
def siglip_hf_full(folder: Path, seed: int, sizes: Sizes):
    """google/siglip-* and the SigLIP2 of one resolution, which are SiglipModels too: beside the text tower."""
    model = SiglipModel(SiglipConfig(vision_config=encoder(sizes), text_config=text(sizes)))
    model.set_attn_implementation("eager")
    randomise(model, seed)
    model = saved(model, folder, siglip_processor(sizes))
    return both_sizes(model.vision_model, seed, sizes, **INTERPOLATE), facts(model)


@case(seed=75)
def siglip2_naflex_hf(folder: Path, seed: int, sizes: Sizes):
    """google/siglip2-*-naflex: patches of images of any shape, padded to one count; beside the text tower."""
    side = sizes.image // sizes.patch
    vision = encoder(sizes, num_patches=side**2)
    del vision["image_size"]
    model = Siglip2Model(Siglip2Config(vision_config=vision, text_config=text(sizes)))
    model.set_attn_implementation("eager")
    randomise(model, seed)
    naflex = {"patch_size": sizes.patch, "max_num_patches": side**2, "resample": 2, **HALVES}
    fields = processor("Siglip2ImageProcessor", sizes.image, **naflex)
    del fields["size"]
    model = saved(model, folder, fields)
    shapes = [(side, side), (side - 2, side + 1), (side + 2, side - 2)]
    count = side**2 + 1
    patches = np.zeros((len(shapes), count, sizes.patch**2 * 3), np.float32)
    mask = np.zeros((len(shapes), count), bool)
    for row, (height, width) in enumerate(shapes):
        image = pixels(seed, height * sizes.patch, width * sizes.patch, 1)[0]
        cut = image.reshape(height, sizes.patch, width, sizes.patch, 3).swapaxes(1, 2)
        patches[row, : height * width] = cut.reshape(height * width, -1)
        mask[row, : height * width] = True
    computed = model.vision_model(
        pixel_values=torch.from_numpy(patches),
        pixel_attention_mask=torch.from_numpy(mask).long(),
        spatial_shapes=torch.tensor(shapes),
    )
    arrays = {
        "pixels": patches,
        "pixel_attention_mask": mask,
        "spatial_shapes": np.asarray(shapes, np.int32),
        "tokens": computed.last_hidden_state,
        "pooled": computed.pooler_output,
    }
    return arrays, facts(model)
