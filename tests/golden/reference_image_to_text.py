"""Cases of VisionEncoderDecoderModel: TrOCR of each published kind; GPT-2, BERT, RoBERTa, BART and mBART decoders."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from transformers import (
    BartConfig,
    BeitConfig,
    BertConfig,
    DeiTConfig,
    GPT2Config,
    MBartConfig,
    RobertaConfig,
    TrOCRConfig,
    ViTConfig,
)

from tests.golden.reference_case import Sizes, case
from tests.golden.reference_hf import HALVES, add_tensors, encoder, processor
from tests.golden.reference_sequences import image_to_text

BART_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
POSITIONS = 32


def bart_like(sizes: Sizes, **options) -> dict:
    """The decoder fields of TrOCR, BART and mBART."""
    return {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.width,
        "decoder_layers": sizes.layers,
        "decoder_attention_heads": sizes.heads,
        "decoder_ffn_dim": sizes.hidden,
        "max_position_embeddings": POSITIONS,
        "is_decoder": True,
        "add_cross_attention": True,
        **options,
    }


def vision_encoder(sizes: Sizes, **options) -> dict:
    """Of half the layers, for the decoder is what these cases are about."""
    return encoder(sizes, num_hidden_layers=max(1, sizes.layers // 2), **options)


def bert_like(sizes: Sizes, **options) -> dict:
    return {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden,
        "max_position_embeddings": POSITIONS,
        "is_decoder": True,
        "add_cross_attention": True,
        **options,
    }


def preprocess(folder: Path, sizes: Sizes, kind: str = "ViTImageProcessor") -> None:
    fields = processor(kind, sizes.image, **HALVES)
    (folder / "preprocessor_config.json").write_text(json.dumps(fields, indent=2) + "\n")


@case(seed=365)
def trocr_printed(folder: Path, seed: int, sizes: Sizes):
    """microsoft/trocr-large-printed and every -stage1: sinusoids, ReLU, no norm of the embedding, an output apart."""
    vision = ViTConfig(**vision_encoder(sizes, qkv_bias=False))
    text = TrOCRConfig(
        **bart_like(
            sizes,
            activation_function="relu",
            scale_embedding=True,
            use_learned_position_embeddings=False,
            layernorm_embedding=False,
            tie_word_embeddings=False,
            cross_attention_hidden_size=sizes.width,
        )
    )
    preprocess(folder, sizes)
    return image_to_text(vision, text, folder, seed, sizes, BART_TOKENS | {"max_length": 20})


@case(seed=378)
def trocr_handwritten(folder: Path, seed: int, sizes: Sizes):
    """microsoft/trocr-base-handwritten: learned positions, GELU, a norm of the embedding, a wider decoder."""
    vision = ViTConfig(**vision_encoder(sizes, qkv_bias=False))
    wider = {"d_model": sizes.width + 2 * sizes.heads, "cross_attention_hidden_size": sizes.width}
    text = TrOCRConfig(**bart_like(sizes) | wider)
    preprocess(folder, sizes)
    return image_to_text(vision, text, folder, seed, sizes, BART_TOKENS | {"max_length": 20}, half=True)


@case(seed=315, layers=1)
def trocr_small(folder: Path, seed: int, sizes: Sizes):
    """microsoft/trocr-small-printed and -handwritten: a distilled DeiT reads."""
    vision = DeiTConfig(**vision_encoder(sizes))
    text = TrOCRConfig(
        **bart_like(
            sizes,
            activation_function="relu",
            scale_embedding=True,
            tie_word_embeddings=False,
            cross_attention_hidden_size=sizes.width,
        )
    )
    preprocess(folder, sizes, "DeiTImageProcessor")
    return image_to_text(
        vision,
        text,
        folder,
        seed,
        sizes,
        BART_TOKENS | {"max_length": 20, "num_beams": 4},
        resized=True,
        half=True,
    )


@case(seed=305, layers=1)
def beit_trocr(folder: Path, seed: int, sizes: Sizes):
    """BEiT reads: relative positions in each layer, layer scale."""
    vision = BeitConfig(**vision_encoder(sizes, use_relative_position_bias=True, layer_scale_init_value=0.1))
    text = TrOCRConfig(**bart_like(sizes, cross_attention_hidden_size=sizes.width))
    preprocess(folder, sizes, "BeitImageProcessor")
    own = BART_TOKENS | {"max_length": 20}
    return image_to_text(vision, text, folder, seed, sizes, own, half=True, gain=1.0)


@case(seed=374)
def vit_gpt2(folder: Path, seed: int, sizes: Sizes):
    """nlpconnect/vit-gpt2-image-captioning: one token begins, ends and pads; masks of an old version in the file."""
    end = sizes.vocabulary - 1
    own = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": end}
    text = GPT2Config(
        vocab_size=sizes.vocabulary,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        n_positions=POSITIONS,
        n_inner=sizes.hidden,
        bos_token_id=end,
        eos_token_id=end,
        is_decoder=True,
        add_cross_attention=True,
    )
    preprocess(folder, sizes)
    own |= {"max_length": 16, "num_beams": 4}
    vision = ViTConfig(**vision_encoder(sizes))
    return image_to_text(
        vision, text, folder, seed, sizes, own, half=True, rewrite=lambda folder: add_masks(folder, sizes)
    )


def add_masks(folder: Path, sizes: Sizes) -> None:
    """The causal masks that GPT-2's older checkpoints hold beside their weights."""
    masks = {}
    for layer in range(sizes.layers):
        for attention in ("attn", "crossattention"):
            name = f"decoder.transformer.h.{layer}.{attention}"
            masks[f"{name}.bias"] = np.tri(POSITIONS, dtype=np.uint8)[None, None]
            masks[f"{name}.masked_bias"] = np.asarray(-1e4, np.float32)
    add_tensors(folder, masks)


@case(seed=333, layers=1)
def deit_bert(folder: Path, seed: int, sizes: Sizes):
    """BERT as a decoder, wider than the encoder: a projection between them; a file as version 4 wrote it."""
    own = {"pad_token_id": 0, "decoder_start_token_id": 3, "bos_token_id": 3, "eos_token_id": 4}
    own |= {"max_length": 18, "num_beams": 2}
    wider = {"hidden_size": sizes.width + 2 * sizes.heads}
    text = BertConfig(**bert_like(sizes, pad_token_id=0) | wider)
    preprocess(folder, sizes, "DeiTImageProcessor")
    vision = DeiTConfig(**vision_encoder(sizes))
    return image_to_text(vision, text, folder, seed, sizes, own, half=True, rewrite=add_tied, embedding=0.3)


def add_tied(folder: Path) -> None:
    """The output layer, which is the embedding's, under its own name too; and the numbers of positions."""
    tensors = load_file(folder / "model.safetensors")
    output = "decoder.cls.predictions"
    added = {
        f"{output}.decoder.weight": tensors["decoder.bert.embeddings.word_embeddings.weight"],
        f"{output}.decoder.bias": tensors[f"{output}.bias"],
        "decoder.bert.embeddings.position_ids": np.arange(POSITIONS)[None],
    }
    add_tensors(folder, added)


@case(seed=357, layers=1)
def vit_roberta(folder: Path, seed: int, sizes: Sizes):
    """RoBERTa as a decoder: positions counted from behind the padding token's."""
    own = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    text = RobertaConfig(**bert_like(sizes, type_vocab_size=1))
    preprocess(folder, sizes)
    return image_to_text(
        ViTConfig(**vision_encoder(sizes)),
        text,
        folder,
        seed,
        sizes,
        own | {"max_length": 18, "no_repeat_ngram_size": 2},
        half=True,
        embedding=0.3,
    )


@case(seed=327, layers=1)
def vit_mbart(folder: Path, seed: int, sizes: Sizes):
    """As Donut decodes: mBART, norms before, scaled embeddings, one more norm after the last layer."""
    own = BART_TOKENS | {
        "decoder_start_token_id": 3,
        "forced_eos_token_id": 2,
        "max_length": 18,
        "num_beams": 3,
    }
    text = MBartConfig(**bart_like(sizes, scale_embedding=True, add_final_layer_norm=True))
    preprocess(folder, sizes)
    return image_to_text(
        ViTConfig(**vision_encoder(sizes)), text, folder, seed, sizes, own, half=True, gain=1.5, embedding=0.3
    )


@case(seed=335, layers=1)
def vit_bart(folder: Path, seed: int, sizes: Sizes):
    """BART as a decoder alone: norms after."""
    text = BartConfig(**bart_like(sizes))
    preprocess(folder, sizes)
    own = BART_TOKENS | {"forced_bos_token_id": 0, "max_length": 18, "num_beams": 4}
    return image_to_text(ViTConfig(**vision_encoder(sizes)), text, folder, seed, sizes, own, half=True)
