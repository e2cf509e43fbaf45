"""TrOCR's decoder (Li et al. 2021) as transformers writes it, `TrOCRForCausalLM`.

With learned positions and a norm of the embedding (-base-handwritten), or with fairseq's sinusoids and none
(-large-printed, every -stage1).
"""

from typing import Any

from vitjax.models.decoder import DecoderConfig
from vitjax.weights.fairseq_layers import POSITION_OFFSET, read_blocks, stack_entries, write_blocks
from vitjax.weights.family import Fields, Specs, TextDecoder
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import linear


def read_trocr(fields: Fields, specs: Specs) -> DecoderConfig:
    """The decoder of a config.json."""
    learned = fields.get("use_learned_position_embeddings", True)
    padding = fields.get("pad_token_id", 1)
    places: dict[str, Any] = {"positions": "learned", "position_offset": POSITION_OFFSET}
    if not learned:
        places = {
            "positions": "sinusoidal",
            "position_offset": padding + 1,
            "padding_token": padding,
            "sinusoid": "halves_inclusive",
        }
    return DecoderConfig(
        read_blocks(fields, "decoder", norm_position="post"),
        fields.get("vocab_size", 50265),
        fields.get("max_position_embeddings", 512),
        scale_embedding=fields.get("scale_embedding", False),
        embedding_norm=fields.get("layernorm_embedding", True),
        tie_embeddings="output_projection.weight" not in specs,
        head_bias=False,
        **places,
    )


def write_trocr(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_trocr`."""
    fields = {
        "model_type": "trocr",
        **write_blocks(config.transformer, "decoder"),
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.max_length,
        "scale_embedding": config.scale_embedding,
        "layernorm_embedding": config.embedding_norm,
        "use_learned_position_embeddings": config.positions == "learned",
        "tie_word_embeddings": config.tie_embeddings,
        "is_decoder": True,
    }
    return fields if config.padding_token is None else {**fields, "pad_token_id": config.padding_token}


def trocr_entries(config: DecoderConfig) -> list[Entry]:
    """The table."""
    entries = stack_entries("model.decoder.", "", config, decoder=True)
    entries.append(Entry("model.decoder.embed_tokens.weight", "embedding/tokens/embedding"))
    return (
        entries if config.tie_embeddings else [*entries, *linear("output_projection", "head", use_bias=False)]
    )


TROCR = TextDecoder(
    name="TrOCR",
    model_type="trocr",
    read_config=read_trocr,
    write_config=write_trocr,
    entries=trocr_entries,
    copies={"output_projection.weight": "model.decoder.embed_tokens.weight"},
    ignored=(
        Ignored(r"model\.decoder\.embed_positions\._float_tensor", "tells fairseq's sinusoids their dtype"),
    ),
)
