"""GPT-2 (Radford et al. 2019) with attention to an image, as transformers writes it: `GPT2LMHeadModel` as a decoder.

Its matrices are laid out [in, out], and queries, keys and values are one.
"""

from typing import Any

from vitjax.models.decoder import DecoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.weights.family import Fields, Specs, TextDecoder
from vitjax.weights.fields import activation_name, activation_of, demand
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import linear, norm


def read_gpt2(fields: Fields, specs: Specs) -> DecoderConfig:
    """The decoder of a config.json."""
    demand(fields, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    width = fields.get("n_embd", 768)
    t = TransformerConfig(
        width=width,
        depth=fields.get("n_layer", 12),
        num_heads=fields.get("n_head", 12),
        feed_forward_width=fields.get("n_inner") or 4 * width,
        norm_epsilon=float(fields.get("layer_norm_epsilon", 1e-5)),
        activation=activation_of(fields, "activation_function", "gelu_new"),
        dropout=float(fields.get("resid_pdrop", 0.1)),
        attention_dropout=float(fields.get("attn_pdrop", 0.1)),
    )
    return DecoderConfig(
        t,
        fields.get("vocab_size", 50257),
        fields.get("n_positions", 1024),
        tie_embeddings="lm_head.weight" not in specs,
        head_bias=False,
    )


def write_gpt2(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_gpt2`."""
    t = config.transformer
    return {
        "model_type": "gpt2",
        "vocab_size": config.vocabulary_size,
        "n_positions": config.max_length,
        "n_embd": t.width,
        "n_layer": t.depth,
        "n_head": t.num_heads,
        "n_inner": t.feed_forward_width,
        "layer_norm_epsilon": t.norm_epsilon,
        "activation_function": "gelu_new" if t.activation == "gelu_tanh" else activation_name(t.activation),
        "resid_pdrop": t.dropout,
        "embd_pdrop": t.dropout,
        "attn_pdrop": t.attention_dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "is_decoder": True,
        "add_cross_attention": True,
    }


def gpt2_entries(config: DecoderConfig) -> list[Entry]:
    """The table."""
    layer, blocks = "transformer.h.{layer}", "blocks"
    entries = [
        Entry("transformer.wte.weight", "embedding/tokens/embedding"),
        Entry("transformer.wpe.weight", "embedding/positions/embedding"),
        *norm("transformer.ln_f", "norm"),
        *norm(f"{layer}.ln_1", f"{blocks}/attention_sublayer/norm"),
        *norm(f"{layer}.ln_cross_attn", f"{blocks}/cross_attention_sublayer/norm"),
        *norm(f"{layer}.ln_2", f"{blocks}/feed_forward_sublayer/norm"),
        *_fused(f"{layer}.attn.c_attn", f"{blocks}/attention", ("query", "key", "value")),
        *_fused(f"{layer}.crossattention.c_attn", f"{blocks}/cross_attention", ("key", "value")),
        *_fused(f"{layer}.crossattention.q_attn", f"{blocks}/cross_attention", ("query",)),
    ]
    for theirs, ours in (("attn", "attention"), ("crossattention", "cross_attention")):
        entries.append(
            Entry(f"{layer}.{theirs}.c_proj.weight", f"{blocks}/{ours}/out/kernel", "(H C) D -> H C D")
        )
        entries.append(Entry(f"{layer}.{theirs}.c_proj.bias", f"{blocks}/{ours}/out/bias"))
    for theirs, ours in (("c_fc", "up"), ("c_proj", "down")):
        for name, our in (("weight", "kernel"), ("bias", "bias")):
            entries.append(Entry(f"{layer}.mlp.{theirs}.{name}", f"{blocks}/feed_forward/{ours}/{our}"))
    return entries if config.tie_embeddings else [*entries, *linear("lm_head", "head", use_bias=False)]


def _fused(theirs: str, ours: str, names: tuple[str, ...]) -> list[Entry]:
    """Projections to heads, one behind the other."""
    return [
        Entry(
            f"{theirs}.weight", tuple(f"{ours}/{name}/kernel" for name in names), "D (H C) -> D H C", axis=1
        ),
        Entry(f"{theirs}.bias", tuple(f"{ours}/{name}/bias" for name in names), "(H C) -> H C"),
    ]


GPT2 = TextDecoder(
    name="GPT-2",
    model_type="gpt2",
    read_config=read_gpt2,
    write_config=write_gpt2,
    entries=gpt2_entries,
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(
        Ignored(
            r"transformer\.h\.\d+\.(attn|crossattention)\.(masked_)?bias",
            "the causal mask, and what it hides with",
        ),
    ),
)
