"""Cases of encoder-decoders of texts: Marian, T5, BART, mBART."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.golden.reference_case import Sizes, case
from tests.golden.reference_hf import add_tensors
from tests.golden.reference_sequences import text_to_text

POSITIONS = 32


def bart_like(sizes: Sizes, **options) -> dict:
    """The fields of BART, mBART and Marian."""
    return {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.width,
        "encoder_layers": sizes.layers,
        "decoder_layers": sizes.layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": sizes.hidden,
        "decoder_ffn_dim": sizes.hidden + 4,
        "max_position_embeddings": POSITIONS,
        **options,
    }


def marian_like(folder: Path, seed: int, sizes: Sizes, rewrite=None, half=False, **options):
    pad = sizes.vocabulary - 1
    own = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "bad_words_ids": [[pad]],
        "max_length": 20,
        "num_beams": 4,
    }
    ids = {name: value for name, value in own.items() if name.endswith("token_id") and "forced" not in name}
    config = MarianConfig(**bart_like(sizes, scale_embedding=True, **ids) | options)
    scale = {"keep": "embed_positions", "embedding": 0.3}  # the positions are sinusoids
    return text_to_text(MarianMTModel(config), folder, seed, sizes, own, rewrite, half, **scale)


@case(seed=302)
def marian(folder: Path, seed: int, sizes: Sizes):
    """Helsinki-NLP/opus-mt-*: the original Transformer, Swish, one vocabulary, a bias of its own for each token."""
    return marian_like(folder, seed, sizes, add_sinusoids, half=True, activation_function="swish")


def add_sinusoids(folder: Path) -> None:
    """Which version 4 saved, and version 5 makes."""
    model = MarianMTModel.from_pretrained(folder, dtype=torch.float32).model
    sides = {"encoder": model.encoder, "decoder": model.decoder}
    tables = {
        f"model.{name}.embed_positions.weight": side.embed_positions.weight for name, side in sides.items()
    }
    add_tensors(folder, {name: table.detach().numpy() for name, table in tables.items()})


@case(seed=381, layers=1)
def marian_separate(folder: Path, seed: int, sizes: Sizes):
    """Helsinki-NLP/opus-mt-tc-*: ReLU, a vocabulary on either side."""
    return marian_like(
        folder,
        seed,
        sizes,
        activation_function="relu",
        share_encoder_decoder_embeddings=False,
        decoder_vocab_size=sizes.vocabulary,
    )


def t5_like(folder: Path, seed: int, sizes: Sizes, rewrite=None, half=False, gain=1.2, **options):
    own = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1, "max_length": 20}
    config = T5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.width,
        d_kv=sizes.width // sizes.heads + 2,
        d_ff=sizes.hidden,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=1,
        **options,
    )
    return text_to_text(
        T5ForConditionalGeneration(config), folder, seed, sizes, own, rewrite, half, embedding=1.5, gain=gain
    )


@case(seed=399)
def t5(folder: Path, seed: int, sizes: Sizes):
    """t5-*: ReLU, the embedding is the output; a table of relative positions that nothing reads, as they all have."""
    shape = (8, sizes.heads)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    return t5_like(
        folder, seed, sizes, lambda folder: add_tensors(folder, {name: np.ones(shape, np.float16)}), half=True
    )


@case(seed=311)
def t5_v1_1(folder: Path, seed: int, sizes: Sizes):
    """google/t5-v1_1-* and flan-t5-*: a gated tanh GELU, an output apart, a decoder of another depth."""
    return t5_like(
        folder,
        seed,
        sizes,
        rewrite=lambda folder: give_output(folder, seed),
        gain=0.8,
        feed_forward_proj="gated-gelu",
        num_decoder_layers=sizes.layers - 1,
    )


def give_output(folder: Path, seed: int) -> None:
    """Published files have an output apart and say so. T5Config of transformers 5 ties all it makes itself."""
    shape = load_file(folder / "model.safetensors")["shared.weight"].shape
    noise = np.random.default_rng([seed, 1]).standard_normal(shape, np.float32)
    add_tensors(folder, {"lm_head.weight": np.float32(0.3) * noise})
    fields = json.loads((folder / "config.json").read_text())
    del fields["scale_decoder_outputs"]
    fields["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")


@case(seed=317)
def bart(folder: Path, seed: int, sizes: Sizes):
    """facebook/bart-large-cnn: learned positions, a norm of the embedding, norms after; its own generation."""
    own = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 18,
        "min_length": 5,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
    }
    return text_to_text(
        BartForConditionalGeneration(BartConfig(**bart_like(sizes))),
        folder,
        seed,
        sizes,
        own,
        half=True,
        embedding=0.3,
    )


@case(seed=331, layers=1)
def mbart(folder: Path, seed: int, sizes: Sizes):
    """facebook/mbart-large-*: norms before, scaled embeddings, one more norm after the last layer of each side."""
    own = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": sizes.vocabulary - 2,
        "forced_eos_token_id": 2,
        "max_length": 18,
        "num_beams": 5,
    }
    model = MBartForConditionalGeneration(MBartConfig(**bart_like(sizes, scale_embedding=True)))
    return text_to_text(model, folder, seed, sizes, own, embedding=0.3)
