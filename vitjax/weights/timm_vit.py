"""The Vision Transformers of timm: `vit_*` (AugReg, CLIP, DINOv2, SigLIP, registers), `deit*`, `flexivit_*`.

timm's config.json names an architecture, whose sizes are in timm's code. Nearly all of them can be seen in the arrays;
what cannot (heads, activation, epsilon) follows from the architecture's name, or stands in `model_args`.
"""

import re
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.feedforward import Activation
from vitjax.nn.pooling import Pooling
from vitjax.weights.family import Family, Fields, Specs
from vitjax.weights.fields import has_remainder, pair_of
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.torch_layers import from_heads, linear, norm, patches

# blocks of another form, some of them under the same names
OTHER_BLOCKS = re.compile(
    r"_(rpn|xp|18x2|dwee|pwee|dpwee|dlittle|radio|rope|relpos|dinov3|sam)(_|$)|^vit_srelpos"
)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
# of SigLIP, whose first checkpoints timm runs with the exact GELU
TANH_GELU = re.compile(
    r"^vit_(base_patch32|large_patch16|so400m_patch16|giantopt_patch16)_siglip_(gap_)?(256|384|512)"
)
EXACT_GELU = re.compile(r"^vit_large_patch16_siglip_(gap_)?(256|384)")

POOLS: dict[str, Pooling] = {"token": "cls", "avg": "mean", "map": "attention", "": "none"}


def is_timm_vit(fields: Fields, specs: Specs) -> bool:
    """Whether config.json names one of these architectures and the arrays have their names."""
    name = str(fields.get("architecture", ""))
    known = name.startswith(("vit_", "deit_", "deit3_", "flexivit_", "eva_large_patch14_", "test_vit"))
    return known and "blocks.0.attn.qkv.weight" in specs and not OTHER_BLOCKS.search(name)


def read_timm_vit(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model, from the architecture's name, `model_args` and the arrays."""
    name, args = str(fields["architecture"]), dict(fields.get("model_args") or {})
    if "norm.weight" not in specs and "fc_norm.weight" not in specs:
        raise ValueError(f"{name} has no last norm: only those with one are supported")
    width, channels, *patch = specs["patch_embed.proj.weight"].shape
    layers = {int(m[1]) for n in specs if (m := re.match(r"blocks\.(\d+)\.", n))}
    down = specs["blocks.0.mlp.fc2.weight"].shape[1]
    packed = specs["blocks.0.mlp.fc1.weight"].shape[0] == 2 * down
    heads = args.get("num_heads") or _heads(name, width)
    registers = specs["reg_token"].shape[1] if "reg_token" in specs else 0
    prefix = sum(token in specs for token in ("cls_token", "dist_token")) + registers
    image_size = image_size_of(fields, args)
    grid = (image_size[0] // patch[0]) * (image_size[1] // patch[1])
    positions = specs["pos_embed"].shape[1] if "pos_embed" in specs else grid
    head = specs.get("head.weight")
    pooling = pooling_of(str(fields.get("global_pool", "token")))
    if pooling == "attention" and prefix and not args.get("pool_include_prefix"):
        raise ValueError(f"{name} leaves {prefix} tokens out of attention pooling: this is not supported")
    return VisionTransformerConfig(
        transformer=TransformerConfig(
            width=width,
            depth=1 + max(layers, default=-1),
            num_heads=heads,
            feed_forward_width=down,
            norm_epsilon=1e-5 if "_clip_" in name else 1e-6,
            activation="swiglu" if packed else _activation(name, args),
            qkv_bias="all" if "blocks.0.attn.qkv.bias" in specs else "none",
            layer_scale=float(args.get("init_values") or 1e-5) if "blocks.0.ls1.gamma" in specs else None,
        ),
        image_size=image_size,
        patch_size=(patch[0], patch[1]),
        drop_remainder=has_remainder(image_size, (patch[0], patch[1])),
        channels=channels,
        num_classes=head.shape[0] if head else 0,
        patch_bias="patch_embed.proj.bias" in specs,
        positions="learned" if "pos_embed" in specs else "none",
        position_interpolation="bicubic_antialias",
        prefix_positions=positions - grid,
        class_token="cls_token" in specs,
        distillation_token="dist_token" in specs,
        distillation_head="head_dist.weight" in specs,
        registers=registers,
        embedding_norm="norm_pre.weight" in specs,
        final_norm="pooled" if "fc_norm.weight" in specs else "tokens",
        pooling=pooling,
    )


def write_timm_vit(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_timm_vit`: an architecture that has what `model_args` cannot say, and `model_args`."""
    if not isinstance(config, VisionTransformerConfig):
        raise ValueError(f"timm's ViT is no {config.kind}")
    t = config.transformer
    gated = t.activation == "swiglu"
    pool = {ours: theirs for theirs, ours in POOLS.items()}.get(config.pooling)
    if pool is None:
        raise ValueError(f"timm's ViT has no pooling {config.pooling!r}")
    args: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
        "num_classes": config.num_classes,
        "embed_dim": t.width,
        "depth": t.depth,
        "num_heads": t.num_heads,
        # timm rounds the product down
        "mlp_ratio": (t.feed_forward_width * (2 if gated else 1) + 0.5) / t.width,
        "qkv_bias": t.qkv_bias == "all",
        "init_values": t.layer_scale,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "no_embed_class": config.prefix_positions == 0,
        "pos_embed": "learn" if config.positions == "learned" else "none",
        "pre_norm": config.embedding_norm,
        "global_pool": pool,
        "fc_norm": config.final_norm == "pooled",
    }
    architecture = "vit_base_patch16_clip_224" if t.norm_epsilon == 1e-5 else "vit_base_patch16_224"
    if gated:
        architecture = "vit_giant_patch14_dinov2"
    elif config.distillation_token:
        architecture = "deit_base_distilled_patch16_224"
    elif t.activation != "gelu":
        args["act_layer"] = t.activation
    if config.pooling == "attention" and config.prefix:
        args["pool_include_prefix"] = True
    return {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": t.width,
        "global_pool": pool,
        "model_args": args,
    }


def timm_vit_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table."""
    t, bias = config.transformer, config.transformer.qkv_bias == "all"
    theirs, ours = "blocks.{layer}", "blocks"
    names = tuple(f"{ours}/attention/{name}" for name in ("query", "key", "value"))
    kernels, biases = tuple(f"{n}/kernel" for n in names), tuple(f"{n}/bias" for n in names)
    entries = [
        *patches("patch_embed.proj", use_bias=config.patch_bias),
        *norm(f"{theirs}.norm1", f"{ours}/attention_sublayer/norm"),
        Entry(f"{theirs}.attn.qkv.weight", kernels, "(H C) D -> D H C"),
        *([Entry(f"{theirs}.attn.qkv.bias", biases, "(H C) -> H C")] if bias else []),
        *from_heads(f"{theirs}.attn.proj", f"{ours}/attention/out"),
        *norm(f"{theirs}.norm2", f"{ours}/feed_forward_sublayer/norm"),
        *mlp(f"{theirs}.mlp", f"{ours}/feed_forward", gated=t.activation == "swiglu"),
        *norm("fc_norm" if config.final_norm == "pooled" else "norm", "norm"),
    ]
    tokens = {"class_token": "cls_token", "distillation_token": "dist_token", "registers": "reg_token"}
    entries += [Entry(tokens[name], name) for name, _ in config.prefix_tokens]
    if config.positions == "learned":
        paths = ("positions/prefix", "positions/embedding")
        entries.append(
            Entry("pos_embed", paths if config.prefix_positions else paths[1:], "1 N D -> N D", axis=1)
        )
    if t.layer_scale is not None:
        entries += [
            Entry(f"{theirs}.ls1.gamma", f"{ours}/attention_sublayer/layer_scale/scale"),
            Entry(f"{theirs}.ls2.gamma", f"{ours}/feed_forward_sublayer/layer_scale/scale"),
        ]
    if config.embedding_norm:
        entries += norm("norm_pre", "embedding_norm")
    if config.pooling == "attention":
        entries += pooling_entries()
    if config.num_classes:
        entries += linear("head", "head")
    if config.distillation_head:
        entries += linear("head_dist", "head_distillation")
    return entries


def mlp(theirs: str, ours: str, *, gated: bool = False) -> list[Entry]:
    """timm's Mlp, or its packed SwiGLU, which holds the gate before the other half."""
    if not gated:
        return [*linear(f"{theirs}.fc1", f"{ours}/up"), *linear(f"{theirs}.fc2", f"{ours}/down")]
    return [
        Entry(f"{theirs}.fc1.weight", (f"{ours}/gate/kernel", f"{ours}/up/kernel"), "out in -> in out"),
        Entry(f"{theirs}.fc1.bias", (f"{ours}/gate/bias", f"{ours}/up/bias")),
        *linear(f"{theirs}.fc2", f"{ours}/down"),
    ]


def attention_with_separate_biases(theirs: str, ours: str, *, use_bias: bool) -> list[Entry]:
    """Attention of timm's Eva and Beit: one matrix, and biases of queries and values beside it."""
    kernels = tuple(f"{ours}/{name}/kernel" for name in ("query", "key", "value"))
    entries = [
        Entry(f"{theirs}.qkv.weight", kernels, "(H C) D -> D H C"),
        *from_heads(f"{theirs}.proj", f"{ours}/out"),
    ]
    if use_bias:
        entries += [
            Entry(f"{theirs}.q_bias", f"{ours}/query/bias", "(H C) -> H C"),
            Entry(f"{theirs}.v_bias", f"{ours}/value/bias", "(H C) -> H C"),
        ]
    return entries


def pooling_entries() -> list[Entry]:
    """timm's AttentionPoolLatent."""
    theirs, ours = "attn_pool", "pool"
    kernels = tuple(f"{ours}/attention/{name}/kernel" for name in ("key", "value"))
    biases = tuple(f"{ours}/attention/{name}/bias" for name in ("key", "value"))
    return [
        Entry(f"{theirs}.latent", f"{ours}/probe"),
        Entry(f"{theirs}.q.weight", f"{ours}/attention/query/kernel", "(H C) D -> D H C"),
        Entry(f"{theirs}.q.bias", f"{ours}/attention/query/bias", "(H C) -> H C"),
        Entry(f"{theirs}.kv.weight", kernels, "(H C) D -> D H C"),
        Entry(f"{theirs}.kv.bias", biases, "(H C) -> H C"),
        *from_heads(f"{theirs}.proj", f"{ours}/attention/out"),
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        *mlp(f"{theirs}.mlp", f"{ours}/feed_forward"),
    ]


def _heads(name: str, width: int) -> int:
    """Heads are 64 wide but in the sizes of the scaling papers, which have 16."""
    if re.search(r"_(huge|giant|gigantic|so400m|giantopt)_|^vit_base_patch16_gap_224", name):
        return 24 if width == 1536 and "giantopt" not in name else 16
    if name.startswith("test_vit"):
        return width // 32
    return width // 64


def _activation(name: str, args: dict[str, Any]) -> Activation:
    found = args.get("act_layer")
    if found is None:
        if "_quickgelu_" in name:
            return "quick_gelu"
        return "gelu_tanh" if TANH_GELU.match(name) and not EXACT_GELU.match(name) else "gelu"
    if found not in ACTIVATIONS:
        raise ValueError(f"model_args.act_layer is {found!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[found]


def image_size_of(fields: Fields, args: dict[str, Any]) -> tuple[int, int]:
    """Of `model_args`, or else what the architecture was trained at."""
    if args.get("img_size"):
        return pair_of(args["img_size"], "model_args.img_size")
    _, rows, columns = (fields.get("pretrained_cfg") or {}).get("input_size", (3, 224, 224))
    return pair_of((rows, columns), "pretrained_cfg.input_size")


def pooling_of(global_pool: str) -> Pooling:
    """What timm calls so; ValueError for a pooling that we have not."""
    if global_pool not in POOLS:
        raise ValueError(f"global_pool is {global_pool!r}: expected one of {', '.join(map(repr, POOLS))}")
    return POOLS[global_pool]


TIMM_VIT = Family(
    name="timm ViT",
    format="timm",
    recognizes=is_timm_vit,
    read_config=read_timm_vit,
    write_config=write_timm_vit,
    entries=timm_vit_entries,
    ignored=(Ignored(r"mask_token", "stands for hidden patches in pretraining only"),),
)
