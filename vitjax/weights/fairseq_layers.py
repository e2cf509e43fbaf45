"""The blocks of the decoders and encoders that came from fairseq: BART, mBART, Marian and TrOCR name them alike."""

from typing import Any

from vitjax.models.decoder import DecoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.sequence import SequenceConfig
from vitjax.weights.family import Fields
from vitjax.weights.fields import activation_name, activation_of
from vitjax.weights.table import Entry
from vitjax.weights.torch_layers import from_heads, heads, linear, norm

POSITION_OFFSET = 2
"""Rows of a table of learned positions before the first token's; fairseq counted from behind its padding token."""


def read_blocks(fields: Fields, side: str, **options: Any) -> TransformerConfig:
    """The blocks of the `encoder` or the `decoder`; `options` are more fields of `TransformerConfig`."""
    return TransformerConfig(
        width=fields.get("d_model", 1024),
        depth=fields.get(f"{side}_layers", 12),
        num_heads=fields.get(f"{side}_attention_heads", 16),
        feed_forward_width=fields.get(f"{side}_ffn_dim", 4096),
        norm_epsilon=1e-5,
        activation=activation_of(fields, "activation_function"),
        dropout=float(fields.get("dropout", 0.1)),
        attention_dropout=float(fields.get("attention_dropout", 0.0)),
        **options,
    )


def write_blocks(t: TransformerConfig, side: str) -> dict[str, Any]:
    """The inverse of `read_blocks`."""
    return {
        "d_model": t.width,
        f"{side}_layers": t.depth,
        f"{side}_attention_heads": t.num_heads,
        f"{side}_ffn_dim": t.feed_forward_width,
        "activation_function": activation_name(t.activation),
        "dropout": t.dropout,
        "attention_dropout": t.attention_dropout,
    }


def stack_entries(theirs: str, ours: str, config: SequenceConfig, *, decoder: bool) -> list[Entry]:
    """Everything of one side but its token vectors: positions, the norm of the embedding, blocks, the last norm."""
    layer, blocks = f"{theirs}layers.{{layer}}", f"{ours}blocks"
    entries = [
        *attention(f"{layer}.self_attn", f"{blocks}/attention"),
        *norm(f"{layer}.self_attn_layer_norm", f"{blocks}/attention_sublayer/norm"),
        *linear(f"{layer}.fc1", f"{blocks}/feed_forward/up"),
        *linear(f"{layer}.fc2", f"{blocks}/feed_forward/down"),
        *norm(f"{layer}.final_layer_norm", f"{blocks}/feed_forward_sublayer/norm"),
    ]
    if decoder:
        entries += attention(f"{layer}.encoder_attn", f"{blocks}/cross_attention")
        entries += norm(f"{layer}.encoder_attn_layer_norm", f"{blocks}/cross_attention_sublayer/norm")
    if config.positions == "learned":
        entries.append(Entry(f"{theirs}embed_positions.weight", f"{ours}embedding/positions/embedding"))
    if config.embedding_norm:
        entries += norm(f"{theirs}layernorm_embedding", f"{ours}embedding/norm")
    if config.transformer.norm_position == "pre":
        entries += norm(f"{theirs}layer_norm", f"{ours}norm")
    return entries


def score_entries(decoder: DecoderConfig) -> list[Entry]:
    """A head apart from the token vectors, and the bias of the scores, `final_logits_bias`, as far as there are any."""
    entries = [] if decoder.tie_embeddings else linear("lm_head", "decoder/head", use_bias=False)
    if decoder.biases_head:
        ours = "decoder/head_bias" if decoder.tie_embeddings else "decoder/head/bias"
        entries.append(Entry("final_logits_bias", ours, "1 V -> V"))
    return entries


def attention(theirs: str, ours: str) -> list[Entry]:
    """Projections to heads and back."""
    projections = [
        entry
        for name, our in (("q", "query"), ("k", "key"), ("v", "value"))
        for entry in heads(f"{theirs}.{name}_proj", f"{ours}/{our}")
    ]
    return [*projections, *from_heads(f"{theirs}.out_proj", f"{ours}/out")]
