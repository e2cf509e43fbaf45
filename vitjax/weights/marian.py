"""Marian's translation models as transformers writes them: `MarianMTModel`, Helsinki-NLP/opus-mt-*.

The Transformer of Vaswani et al. (2017), with its norms behind and sinusoidal positions, whose sines lie before their
cosines.
"""

from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.weights.fairseq_layers import read_blocks, score_entries, stack_entries, write_blocks
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import demand
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.text_to_text import SHARED, TOKENS, sides


def read_marian(fields: Fields, specs: Specs) -> EncoderDecoderConfig:
    """The model of a config.json: one vocabulary, or one on either side."""
    demand(fields, static_position_embeddings=True, normalize_before=False, normalize_embedding=False)
    source = fields.get("vocab_size", 58101)
    common: dict[str, Any] = {
        "max_length": fields.get("max_position_embeddings", 1024),
        "positions": "sinusoidal",
        "sinusoid": "halves",
        "scale_embedding": bool(fields.get("scale_embedding", False)),
    }
    return EncoderDecoderConfig(
        TextEncoderConfig(read_blocks(fields, "encoder", norm_position="post"), source, **common),
        DecoderConfig(
            read_blocks(fields, "decoder", norm_position="post"),
            fields.get("decoder_vocab_size") or source,
            tie_embeddings="lm_head.weight" not in specs,
            head_bias="final_logits_bias" in specs,
            **common,
        ),
        share_embeddings=bool(fields.get("share_encoder_decoder_embeddings", True)),
    )


def write_marian(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_marian`."""
    encoder, decoder, shared = sides(config, "Marian")
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": decoder.tie_embeddings,
        "share_encoder_decoder_embeddings": shared,
        **write_blocks(encoder.transformer, "encoder"),
        **write_blocks(decoder.transformer, "decoder"),
        "vocab_size": encoder.vocabulary_size,
        "decoder_vocab_size": decoder.vocabulary_size,
        "max_position_embeddings": decoder.max_length,
        "scale_embedding": decoder.scale_embedding,
    }


def marian_entries(config: EncoderDecoderConfig) -> list[Entry]:
    """The whole table, without `model.`."""
    encoder, decoder, shared = sides(config, "Marian")
    tables = {"shared": TOKENS}
    if not shared:
        tables = {
            "decoder.embed_tokens": TOKENS,
            "encoder.embed_tokens": "encoder/embedding/tokens/embedding",
        }
    return [
        *(Entry(f"{theirs}.weight", ours) for theirs, ours in tables.items()),
        *stack_entries("encoder.", "encoder/", encoder, decoder=False),
        *stack_entries("decoder.", "decoder/", decoder, decoder=True),
        *score_entries(decoder),
    ]


def copies(fields: Fields) -> dict[str, str]:
    """Names of the one table of token vectors, or of the decoder's."""
    if fields.get("share_encoder_decoder_embeddings", True):
        return {**SHARED, "lm_head.weight": "shared.weight"}
    return {"lm_head.weight": "decoder.embed_tokens.weight"}


MARIAN = Family(
    name="Marian",
    format="hf",
    recognizes=has_model_type("marian"),
    read_config=read_marian,
    write_config=write_marian,
    entries=marian_entries,
    prefix="model.",
    heads=("lm_head.", "final_logits_bias"),
    copies=copies,
    ignored=(Ignored(r"(en|de)coder\.embed_positions\.weight", "sinusoids, which are computed"),),
)
