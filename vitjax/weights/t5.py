"""T5 as transformers writes it, `T5ForConditionalGeneration`: the first release, v1.1, and Flan-T5.

Raffel et al. (2020): relative positions, RMSNorm before each sublayer, no biases, attention scores that are not scaled,
heads of a width of their own. v1.1 gates its feed-forward networks and has a head apart from the embedding.
"""

from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.feedforward import GATED, Activation
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.text_to_text import SHARED, TOKENS, sides
from vitjax.weights.torch_layers import from_heads, heads, linear

FEED_FORWARDS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gated-gelu": "geglu_tanh",
    "gated-silu": "swiglu",
}


def read_t5(fields: Fields, specs: Specs) -> EncoderDecoderConfig:
    """The model of a config.json."""
    kind = fields.get("feed_forward_proj", "relu")
    if kind not in FEED_FORWARDS:
        raise ValueError(f"feed_forward_proj is {kind!r}: expected one of {', '.join(FEED_FORWARDS)}")
    layers, num_heads = fields.get("num_layers", 6), fields.get("num_heads", 8)
    decoder_layers = fields.get("num_decoder_layers")

    def blocks(depth: int) -> TransformerConfig:
        return TransformerConfig(
            width=fields.get("d_model", 512),
            depth=depth,
            num_heads=num_heads,
            feed_forward_width=fields.get("d_ff", 2048),
            norm="rms",
            norm_epsilon=float(fields.get("layer_norm_epsilon", 1e-6)),
            activation=FEED_FORWARDS[kind],
            query_key_scale=1.0,
            use_bias=False,
            attention_width=num_heads * fields.get("d_kv", 64),
            dropout=float(fields.get("dropout_rate", 0.1)),
            attention_dropout=float(fields.get("dropout_rate", 0.1)),
        )

    common: dict[str, Any] = {
        "vocabulary_size": fields.get("vocab_size", 32128),
        "max_length": fields.get("n_positions", 512),
        "positions": "relative",
        "scale_embedding": False,
        "relative_buckets": fields.get("relative_attention_num_buckets", 32),
        "relative_distance": fields.get("relative_attention_max_distance", 128),
    }
    return EncoderDecoderConfig(
        TextEncoderConfig(blocks(layers), **common),
        DecoderConfig(
            blocks(layers if decoder_layers is None else decoder_layers),
            tie_embeddings="lm_head.weight" not in specs,
            head_bias=False,
            # of older files the tie alone tells whether the scores are scaled
            scale_head=fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True)),
            **common,
        ),
        share_embeddings=True,
    )


def write_t5(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_t5`."""
    encoder, decoder, _ = sides(config, "T5")
    t = encoder.transformer
    kinds = [kind for kind, activation in FEED_FORWARDS.items() if activation == t.activation]
    if not kinds:
        raise ValueError(f"T5 has no activation {t.activation!r}")
    gated = t.activation in GATED
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": decoder.tie_embeddings,
        "scale_decoder_outputs": decoder.scale_head,
        "vocab_size": encoder.vocabulary_size,
        "n_positions": encoder.max_length,
        "d_model": t.width,
        "d_kv": t.head_width,
        "d_ff": t.feed_forward_width,
        "num_layers": t.depth,
        "num_decoder_layers": decoder.transformer.depth,
        "num_heads": t.num_heads,
        "feed_forward_proj": kinds[0],
        "is_gated_act": gated,
        "layer_norm_epsilon": t.norm_epsilon,
        "dropout_rate": t.dropout,
        "relative_attention_num_buckets": encoder.relative_buckets,
        "relative_attention_max_distance": encoder.relative_distance,
    }


def t5_entries(config: EncoderDecoderConfig) -> list[Entry]:
    """The whole table."""
    decoder = config.decoder
    gated = decoder.transformer.activation in GATED
    return [
        Entry("shared.weight", TOKENS),
        *_stack("encoder", gated, sublayers=("SelfAttention",)),
        *_stack("decoder", gated, sublayers=("SelfAttention", "EncDecAttention")),
        *([] if decoder.tie_embeddings else linear("lm_head", "decoder/head", use_bias=False)),
    ]


def _stack(side: str, gated: bool, sublayers: tuple[str, ...]) -> list[Entry]:
    """One side: its blocks, the bias that the first of them holds for all, the last norm."""
    layer, blocks = f"{side}.block.{{layer}}.layer", f"{side}/blocks"
    entries = [
        Entry(
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"{side}/relative_bias/embedding",
        ),
        Entry(f"{side}.final_layer_norm.weight", f"{side}/norm/scale"),
    ]
    for place, (theirs, ours) in enumerate(zip(sublayers, ("attention", "cross_attention"), strict=False)):
        for name, our in (("q", "query"), ("k", "key"), ("v", "value")):
            entries += heads(f"{layer}.{place}.{theirs}.{name}", f"{blocks}/{ours}/{our}", use_bias=False)
        entries += from_heads(f"{layer}.{place}.{theirs}.o", f"{blocks}/{ours}/out", use_bias=False)
        entries.append(Entry(f"{layer}.{place}.layer_norm.weight", f"{blocks}/{ours}_sublayer/norm/scale"))
    dense, ours = f"{layer}.{len(sublayers)}.DenseReluDense", f"{blocks}/feed_forward"
    names = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
    for name, our in names.items():
        entries += linear(f"{dense}.{name}", f"{ours}/{our}", use_bias=False)
    entries.append(Entry(f"{layer}.{len(sublayers)}.layer_norm.weight", f"{ours}_sublayer/norm/scale"))
    return entries


T5 = Family(
    name="T5",
    format="hf",
    recognizes=has_model_type("t5"),
    read_config=read_t5,
    write_config=write_t5,
    entries=t5_entries,
    copies=lambda fields: {**SHARED, "lm_head.weight": "shared.weight"},
    ignored=(
        Ignored(
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
            "attention to the source has no positions",
        ),
    ),
)
