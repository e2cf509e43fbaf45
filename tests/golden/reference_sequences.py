"""What transformers' encoder-decoders are asked for: teacher-forced logits and generated tokens."""

import copy
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from tests.golden.reference_case import Sizes, pixels, randomise, to_torch
from tests.golden.reference_hf import saved

ROWS = 3
TARGET = 7
SOURCE = 9
GENERATE = {
    "greedy": {"num_beams": 1, "do_sample": False, "max_length": 16},
    "beams": {"num_beams": 3, "max_length": 16, "early_stopping": True},
    "long": {"num_beams": 4, "max_length": 14, "length_penalty": 2.0, "num_return_sequences": 2},
    "own": {},
}


def image_to_text(
    encoder,
    decoder,
    folder: Path,
    seed: int,
    sizes: Sizes,
    own: dict,
    resized=False,
    rewrite=None,
    half=False,
    **scale,
):
    """The case of a VisionEncoderDecoderModel of these two configs; `own` is its generation config.

    `resized`: also at another size of image; `rewrite`, `half`, `scale`: see `text_to_text`.
    """
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.pad_token_id = own["pad_token_id"]
    config.decoder_start_token_id = own["decoder_start_token_id"]
    model = VisionEncoderDecoderModel(config)
    model.set_attn_implementation("eager")
    decide(model, seed, own, **scale)
    model = saved(model, folder, rewrite=rewrite, half=half)
    images = pixels(seed, sizes.image, sizes.image, ROWS)
    arrays, facts = outputs(model, {"pixel_values": to_torch(images)}, seed, sizes)
    arrays["pixels"] = images
    if resized:
        arrays["other_pixels"] = other = pixels(seed, *sizes.other, ROWS)
        given = {"pixel_values": to_torch(other), "interpolate_pos_encoding": True}
        decoder_tokens = torch.from_numpy(arrays["decoder_tokens"]).long()
        arrays["other_logits"] = model(**given, decoder_input_ids=decoder_tokens).logits
    return arrays, facts


def text_to_text(model, folder: Path, seed: int, sizes: Sizes, own: dict, rewrite=None, half=False, **scale):
    """The case of an encoder-decoder of texts; rows of the source have different lengths, padded at the end.

    `rewrite`, `half`: see `saved`; `scale`: options of `randomise`.
    """
    model.set_attn_implementation("eager")
    decide(model, seed, own, **scale)
    model = saved(model, folder, rewrite=rewrite, half=half)
    lengths = np.asarray([SOURCE, SOURCE - 4, SOURCE - 1])
    mask = np.arange(SOURCE) < lengths[:, None]
    source = np.where(mask, ordinary_tokens(seed, own, sizes, SOURCE), own["pad_token_id"]).astype(np.int32)
    given = {"input_ids": torch.from_numpy(source).long(), "attention_mask": torch.from_numpy(mask).long()}
    arrays, facts = outputs(model, given, seed, sizes)
    return arrays | {"source": source, "source_mask": mask}, facts


def decide(model, seed: int, own: dict, **scale) -> None:
    """Random weights, and the folder's own way of generating."""
    randomise(model, seed, **scale)
    model.generation_config = GenerationConfig(**own)


def ordinary_tokens(seed: int, own: dict, sizes: Sizes, length: int) -> np.ndarray:
    special = {value for name, value in own.items() if name.endswith("token_id")}
    ordinary = [token for token in range(sizes.vocabulary) if token not in special]
    return np.random.default_rng([seed, length]).choice(ordinary, (ROWS, length))


def outputs(model, given: dict, seed: int, sizes: Sizes):
    own = model.generation_config.to_dict()
    special = {name: value for name, value in own.items() if name.endswith("token_id") and value is not None}
    decoder_tokens = ordinary_tokens(seed, special, sizes, TARGET)
    decoder_tokens[:, 0] = own["decoder_start_token_id"]
    encoder_tokens = model.get_encoder()(**given).last_hidden_state
    logits = model(**given, decoder_input_ids=torch.from_numpy(decoder_tokens)).logits
    arrays = {
        "encoder_tokens": encoder_tokens,
        "decoder_tokens": decoder_tokens.astype(np.int32),
        "logits": logits,
    }
    double, given_double = copy.deepcopy(model).double(), doubled(given)
    doubtful = []
    for name, options in GENERATE.items():
        arrays[f"generated_{name}"] = generated = model.generate(**given, **options)
        if not torch.equal(generated, double.generate(**given_double, **options)):
            doubtful.append(name)
    reference = f"transformers {transformers.__version__} {type(model).__name__}"
    return arrays, {"reference": reference, "generate": GENERATE, "doubtful": doubtful}


def doubled(given: dict) -> dict:
    return {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in given.items()
    }
