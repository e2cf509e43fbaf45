"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019) as decoders, as transformers writes them.

`BertLMHeadModel`, `RobertaForCausalLM`. They differ in names, and in that RoBERTa counts positions from behind the
padding token's.
"""

from dataclasses import replace
from typing import Any

from vitjax.models.decoder import DecoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.weights.family import Fields, Specs, TextDecoder
from vitjax.weights.fields import activation_name, activation_of, demand
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import from_heads, heads, linear, norm


def read_bert(fields: Fields, specs: Specs) -> DecoderConfig:
    """The decoder of BERT's config.json."""
    demand(fields, position_embedding_type="absolute")
    t = TransformerConfig(
        width=fields.get("hidden_size", 768),
        depth=fields.get("num_hidden_layers", 12),
        num_heads=fields.get("num_attention_heads", 12),
        feed_forward_width=fields.get("intermediate_size", 3072),
        norm_position="post",
        norm_epsilon=float(fields.get("layer_norm_eps", 1e-12)),
        activation=activation_of(fields),
        dropout=float(fields.get("hidden_dropout_prob", 0.1)),
        attention_dropout=float(fields.get("attention_probs_dropout_prob", 0.1)),
    )
    return DecoderConfig(
        t,
        fields.get("vocab_size", 30522),
        fields.get("max_position_embeddings", 512),
        embedding_norm=True,
        token_types=fields.get("type_vocab_size", 2),
        tie_embeddings="cls.predictions.decoder.weight" not in specs,
        head_bias=True,
        head_transform=t.activation,
    )


def read_roberta(fields: Fields, specs: Specs) -> DecoderConfig:
    """The decoder of RoBERTa's config.json."""
    config = read_bert({"vocab_size": 50265, **fields}, specs)
    padding = fields.get("pad_token_id", 1)
    return replace(
        config,
        max_length=config.max_length - (padding + 1),
        position_offset=padding + 1,
        padding_token=padding,
        tie_embeddings="lm_head.decoder.weight" not in specs,
        head_transform="gelu",
    )


def write_bert(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_bert`."""
    t = config.transformer
    return {
        "model_type": "bert",
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.position_offset + config.max_length,
        "type_vocab_size": config.token_types,
        "hidden_size": t.width,
        "num_hidden_layers": t.depth,
        "num_attention_heads": t.num_heads,
        "intermediate_size": t.feed_forward_width,
        "layer_norm_eps": t.norm_epsilon,
        "hidden_act": activation_name(t.activation),
        "hidden_dropout_prob": t.dropout,
        "attention_probs_dropout_prob": t.attention_dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "is_decoder": True,
        "add_cross_attention": True,
    }


def write_roberta(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_roberta`."""
    return {**write_bert(config), "model_type": "roberta", "pad_token_id": config.padding_token}


def bert_entries(config: DecoderConfig) -> list[Entry]:
    """BERT's table."""
    return [
        *_body("bert"),
        *linear("cls.predictions.transform.dense", "head_transform/dense"),
        *norm("cls.predictions.transform.LayerNorm", "head_transform/norm"),
        *_scores(config, "cls.predictions.decoder", "cls.predictions.bias"),
    ]


def roberta_entries(config: DecoderConfig) -> list[Entry]:
    """RoBERTa's table."""
    return [
        *_body("roberta"),
        *linear("lm_head.dense", "head_transform/dense"),
        *norm("lm_head.layer_norm", "head_transform/norm"),
        *_scores(config, "lm_head.decoder", "lm_head.bias"),
    ]


def _body(base: str) -> list[Entry]:
    """Embeddings and blocks."""
    embeddings, layer, blocks = f"{base}.embeddings", f"{base}.encoder.layer.{{layer}}", "blocks"
    entries = [
        *(
            Entry(f"{embeddings}.{theirs}_embeddings.weight", f"embedding/{ours}/embedding")
            for theirs, ours in (("word", "tokens"), ("position", "positions"), ("token_type", "token_types"))
        ),
        *norm(f"{embeddings}.LayerNorm", "embedding/norm"),
        *linear(f"{layer}.intermediate.dense", f"{blocks}/feed_forward/up"),
        *linear(f"{layer}.output.dense", f"{blocks}/feed_forward/down"),
        *norm(f"{layer}.output.LayerNorm", f"{blocks}/feed_forward_sublayer/norm"),
    ]
    for theirs, ours in (("attention", "attention"), ("crossattention", "cross_attention")):
        for name in ("query", "key", "value"):
            entries += heads(f"{layer}.{theirs}.self.{name}", f"{blocks}/{ours}/{name}")
        entries += from_heads(f"{layer}.{theirs}.output.dense", f"{blocks}/{ours}/out")
        entries += norm(f"{layer}.{theirs}.output.LayerNorm", f"{blocks}/{ours}_sublayer/norm")
    return entries


def _scores(config: DecoderConfig, weight: str, bias: str) -> list[Entry]:
    if config.tie_embeddings:
        return [Entry(bias, "head_bias")]
    return [*linear(weight, "head", use_bias=False), Entry(bias, "head/bias")]


BERT = TextDecoder(
    name="BERT",
    model_type="bert",
    read_config=read_bert,
    write_config=write_bert,
    entries=bert_entries,
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(Ignored(r"bert\.embeddings\.position_ids", "0, 1, 2, ..."),),
)

ROBERTA = TextDecoder(
    name="RoBERTa",
    model_type="roberta",
    read_config=read_roberta,
    write_config=write_roberta,
    entries=roberta_entries,
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=(Ignored(r"roberta\.embeddings\.position_ids", "0, 1, 2, ..."),),
)
