"""transformers' `VisionEncoderDecoderModel`: an image encoder of one family, a text decoder of another.

TrOCR (Li et al. 2021), ViT-GPT2 captioning, Donut-style decoders. Each decoder makes a family; the encoder is whichever
reads the other half. All of the encoder's tokens are attended to. Where the widths differ, either the decoder's
cross-attention takes the encoder's width (TrOCR), or a layer between the two brings it to the decoder's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.functional import abstract
from vitjax.parallel.paths import named_leaves
from vitjax.weights.bart import BART_DECODER, MBART_DECODER
from vitjax.weights.beit import BEIT
from vitjax.weights.bert import BERT, ROBERTA
from vitjax.weights.deit import DEIT
from vitjax.weights.family import Family, Fields, Specs, TextDecoder
from vitjax.weights.gpt2 import GPT2
from vitjax.weights.table import Entry, Ignored, Table
from vitjax.weights.tensors import TensorSpec
from vitjax.weights.torch_layers import linear
from vitjax.weights.trocr import TROCR
from vitjax.weights.untrained import untrained
from vitjax.weights.vit import VIT

ENCODERS = (VIT, DEIT, BEIT)
DECODERS = (TROCR, GPT2, BERT, ROBERTA, MBART_DECODER, BART_DECODER)
PROJECTION = "enc_to_dec_proj"


def family(decoder: TextDecoder) -> Family:
    """Every image encoder with this decoder."""

    def recognizes(fields: Fields, specs: Specs) -> bool:
        return (
            fields.get("model_type") == "vision-encoder-decoder"
            and part(fields, "decoder").get("model_type") == decoder.model_type
        )

    def read_config(fields: Fields, specs: Specs) -> EncoderDecoderConfig:
        inner = part(fields, "encoder")
        encoder = next((e for e in ENCODERS if e.recognizes(inner, under("encoder.", specs))), None)
        if encoder is None:
            raise ValueError(
                f"its encoder is a {inner.get('model_type')!r}: there are {', '.join(e.name for e in ENCODERS)}"
            )
        config = decoder.read_config(part(fields, "decoder"), under("decoder.", specs))
        vision = encoder.read_config(inner, under("encoder.", specs))
        assert isinstance(vision, VisionTransformerConfig)
        return EncoderDecoderConfig(vision, replace(config, project_context=f"{PROJECTION}.weight" in specs))

    def write_config(config: ModelConfig) -> dict[str, Any]:
        if not isinstance(config, EncoderDecoderConfig) or not isinstance(
            config.encoder, VisionTransformerConfig
        ):
            raise ValueError("VisionEncoderDecoder reads images and writes text")
        widths = config.encoder.output_width, config.decoder.transformer.width
        fields = decoder.write_config(config.decoder)
        if not config.decoder.project_context and widths[0] != widths[1]:
            if decoder is not TROCR:
                raise ValueError(
                    f"{decoder.name} needs project_context for {widths[0]} -> {widths[1]} features"
                )
            fields["cross_attention_hidden_size"] = widths[0]
        return {
            "model_type": "vision-encoder-decoder",
            "architectures": ["VisionEncoderDecoderModel"],
            "is_encoder_decoder": True,
            "tie_word_embeddings": False,
            "encoder": encoder_of(config.encoder)[1],
            "decoder": fields,
        }

    def entries(config: EncoderDecoderConfig) -> Sequence[Entry]:
        assert isinstance(config.encoder, VisionTransformerConfig)
        image, _ = encoder_of(config.encoder)
        return [
            *nested(image.entries(config.encoder), "encoder"),
            *(linear(PROJECTION, "decoder/context_projection") if config.decoder.project_context else []),
            *nested(decoder.entries(config.decoder), "decoder"),
        ]

    def copies(fields: Fields) -> Mapping[str, str]:
        return {f"decoder.{copy}": f"decoder.{original}" for copy, original in decoder.copies.items()}

    return Family(
        name=f"VisionEncoderDecoder with {decoder.name}",
        format="hf",
        recognizes=recognizes,
        read_config=read_config,
        write_config=write_config,
        entries=entries,
        copies=copies,
        ignored=(
            *(Ignored(rf"encoder\.{i.pattern}", i.reason) for e in ENCODERS for i in e.ignored),
            *(Ignored(rf"decoder\.{i.pattern}", i.reason) for i in decoder.ignored),
        ),
    )


def part(fields: Fields, name: str) -> Fields:
    """The config of the encoder or the decoder."""
    found = fields.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is {found!r}: expected the config of a model")
    return found


def under(prefix: str, specs: Specs) -> Specs:
    """The arrays below a prefix, by what follows it."""
    return {name.removeprefix(prefix): spec for name, spec in specs.items() if name.startswith(prefix)}


def nested(entries: Sequence[Entry], name: str) -> list[Entry]:
    """The entries of a part, of which both sides say `name` first."""
    return [
        replace(entry, theirs=f"{name}.{entry.theirs}", ours=tuple(f"{name}/{path}" for path in entry.ours))
        for entry in entries
    ]


@cache
def encoder_of(config: VisionTransformerConfig) -> tuple[Family, dict[str, Any]]:
    """The first family that has such an encoder, and its config; ValueError if none has."""
    why = ""
    for encoder in ENCODERS:
        try:
            fields = encoder.write_config(config)
            arrays = abstract(lambda rngs: config.build(rngs=rngs))[1]
            shapes = Table(encoder.entries(config), named_leaves(arrays)).expected
            specs = {name: TensorSpec(shape, "float32", "") for name, shape in shapes.items()}
            if untrained(encoder.read_config(fields, specs)) == untrained(config):
                return encoder, fields
        except ValueError as error:
            why = why or f"{encoder.name}: {error}"
    raise ValueError(
        f"no image encoder of transformers is this one: {why or 'it would come back as another'}"
    )


VISION_ENCODER_DECODERS = tuple(family(decoder) for decoder in DECODERS)
