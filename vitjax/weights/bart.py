"""BART and mBART as transformers writes them: whole, from text to text, and as the decoder of an image encoder.

They differ in where the norms are: BART's blocks have them behind, mBART's before, and one more after the last.
"""

from functools import partial
from typing import Any, Literal

from vitjax.models.config import ModelConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.weights.fairseq_layers import (
    POSITION_OFFSET,
    read_blocks,
    score_entries,
    stack_entries,
    write_blocks,
)
from vitjax.weights.family import Family, Fields, Specs, TextDecoder, has_model_type
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.text_to_text import SHARED, TOKENS, sides
from vitjax.weights.torch_layers import linear

NormPosition = Literal["pre", "post"]


def read_sequence(fields: Fields, side: str, norms: NormPosition) -> dict[str, Any]:
    """What the `encoder` and the `decoder` have in common."""
    return {
        "transformer": read_blocks(fields, side, norm_position=norms),
        "vocabulary_size": fields.get("vocab_size", 50265),
        "max_length": fields.get("max_position_embeddings", 1024),
        "positions": "learned",
        "position_offset": POSITION_OFFSET,
        "scale_embedding": bool(fields.get("scale_embedding", False)),
        "embedding_norm": True,
    }


def write_sequence(config: TextEncoderConfig | DecoderConfig, side: str) -> dict[str, Any]:
    """The inverse of `read_sequence`."""
    return {
        **write_blocks(config.transformer, side),
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.max_length,
        "scale_embedding": config.scale_embedding,
    }


def read_decoder(fields: Fields, specs: Specs, norms: NormPosition) -> DecoderConfig:
    """The decoder of a config.json that an image encoder has beside its own."""
    tied = "lm_head.weight" not in specs
    return DecoderConfig(**read_sequence(fields, "decoder", norms), tie_embeddings=tied, head_bias=False)


def write_decoder(config: DecoderConfig, kind: str) -> dict[str, Any]:
    """The inverse of `read_decoder`."""
    return {
        "model_type": kind,
        **write_sequence(config, "decoder"),
        "tie_word_embeddings": config.tie_embeddings,
        "is_decoder": True,
        "is_encoder_decoder": False,
    }


def decoder_entries(config: DecoderConfig) -> list[Entry]:
    """The table of the decoder alone."""
    entries = stack_entries("model.decoder.", "", config, decoder=True)
    entries.append(Entry("model.decoder.embed_tokens.weight", "embedding/tokens/embedding"))
    return entries if config.tie_embeddings else [*entries, *linear("lm_head", "head", use_bias=False)]


def read_bart(fields: Fields, specs: Specs, norms: NormPosition) -> EncoderDecoderConfig:
    """The model of a config.json; a file without the bias of the scores is that of a `BartModel`."""
    return EncoderDecoderConfig(
        TextEncoderConfig(**read_sequence(fields, "encoder", norms)),
        DecoderConfig(
            **read_sequence(fields, "decoder", norms),
            tie_embeddings="lm_head.weight" not in specs,
            head_bias="final_logits_bias" in specs,
        ),
        share_embeddings=True,
    )


def write_bart(config: ModelConfig, kind: str, name: str) -> dict[str, Any]:
    """The inverse of `read_bart`."""
    encoder, decoder, _ = sides(config, name)
    return {
        "model_type": kind,
        "architectures": [{"bart": "Bart", "mbart": "MBart"}[kind] + "ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": decoder.tie_embeddings,
        **write_sequence(encoder, "encoder"),
        **write_sequence(decoder, "decoder"),
    }


def bart_entries(config: EncoderDecoderConfig) -> list[Entry]:
    """The whole table, without `model.`."""
    encoder, decoder, _ = sides(config, "BART")
    return [
        Entry("shared.weight", TOKENS),
        *stack_entries("encoder.", "encoder/", encoder, decoder=False),
        *stack_entries("decoder.", "decoder/", decoder, decoder=True),
        *score_entries(decoder),
    ]


def _family(name: str, kind: str, norms: NormPosition) -> Family:
    return Family(
        name=name,
        format="hf",
        recognizes=has_model_type(kind),
        read_config=partial(read_bart, norms=norms),
        write_config=partial(write_bart, kind=kind, name=name),
        entries=bart_entries,
        prefix="model.",
        heads=("lm_head.", "final_logits_bias"),
        copies=lambda fields: {**SHARED, "lm_head.weight": "shared.weight"},
        ignored=(Ignored(r"(en|de)coder\.version", "a number that fairseq left"),),
    )


def _text_decoder(name: str, kind: str, norms: NormPosition) -> TextDecoder:
    return TextDecoder(
        name=name,
        model_type=kind,
        read_config=partial(read_decoder, norms=norms),
        write_config=partial(write_decoder, kind=kind),
        entries=decoder_entries,
        copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    )


BART, BART_DECODER = _family("BART", "bart", "post"), _text_decoder("BART", "bart", "post")
MBART, MBART_DECODER = _family("mBART", "mbart", "pre"), _text_decoder("mBART", "mbart", "pre")
