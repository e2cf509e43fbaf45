"""The counts against the real parameters, the products in the traced program, XLA's own count and published figures."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from vitjax.analysis.complexity import complexity
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import abstract, merge

T = TransformerConfig(width=32, depth=3, num_heads=4, feed_forward_width=48)
VIT = VisionTransformerConfig(transformer=T, image_size=(16, 24), patch_size=(4, 8), num_classes=5)
TEXT = TextEncoderConfig(transformer=T, vocabulary_size=13, max_length=9)
DECODER = DecoderConfig(transformer=T, vocabulary_size=11, max_length=7)
RESNET = ResNetConfig(depths=(2, 1), widths=(8, 12), num_classes=5)
SHOW = ShowAttendTellConfig(
    encoder=replace(RESNET, num_classes=0),
    vocabulary_size=11,
    width=20,
    embedding_width=12,
    attention_width=16,
)


def with_blocks(config, **fields):
    return replace(config, transformer=replace(config.transformer, **fields))


VITS = {
    "plain": VIT,
    "post-norm, swiglu": with_blocks(VIT, norm_position="post", activation="swiglu"),
    "rms, no bias, layer scale": with_blocks(VIT, norm="rms", use_bias=False, layer_scale=1e-4),
    "batch norm, query-key norm": with_blocks(VIT, norm="batch", query_key_norm=True),
    "shared query and key": with_blocks(VIT, share_query_key=True, query_key_norm=True),
    "additive": with_blocks(VIT, attention_score="additive"),
    "class token, registers": replace(VIT, class_token=True, registers=3, pooling="cls"),
    "attention pooling": with_blocks(replace(VIT, pooling="attention"), use_bias=False, activation="swiglu"),
    "no head": replace(VIT, num_classes=0, pooling="none"),
    "concatenated": replace(VIT, embedding_combination="concat"),
    "concatenated sinusoids": replace(VIT, positions="sinusoidal", embedding_combination="concat"),
    "concatenated nothing": replace(VIT, positions="none", embedding_combination="concat"),
    "relative": replace(VIT, positions="relative", class_token=True),
    "learned and relative, of each layer": replace(
        VIT, positions="learned_relative", relative_tables="layers", relative_prefix=True, class_token=True
    ),
    "rotary": replace(VIT, positions="rotary"),
    "remainder": replace(VIT, patch_size=(3, 5), drop_remainder=True),
    "stem": replace(VIT, stem_widths=(6, 10), stem_strides=(2, 1), patch_size=(2, 4)),
    "merged tokens": replace(VIT, class_token=True, registers=1, merged_tokens=3),
    "merged as far as it goes": with_blocks(
        replace(VIT, patch_size=(2, 2), merged_tokens=100, pooling="attention"), attention_width=24
    ),
    "overlapping patches": replace(VIT, patch_size=(4, 8), patch_stride=(4, 4), channels=1),
}
SEQUENCES = {
    "image to text": EncoderDecoderConfig(
        encoder=replace(VIT, num_classes=0, pooling="none"), decoder=DECODER
    ),
    "text to text": EncoderDecoderConfig(encoder=TEXT, decoder=DECODER),
    "tied": EncoderDecoderConfig(encoder=TEXT, decoder=replace(DECODER, tie_embeddings=True)),
    "other widths": EncoderDecoderConfig(
        encoder=replace(VIT, num_classes=0, pooling="none", class_token=True),
        decoder=with_blocks(DECODER, width=24, feed_forward_width=40, depth=2, use_bias=False),
    ),
    "shared query and key": EncoderDecoderConfig(
        encoder=TEXT, decoder=with_blocks(DECODER, share_query_key=True)
    ),
    "learned and concatenated": EncoderDecoderConfig(
        encoder=replace(TEXT, positions="learned", embedding_combination="concat"),
        decoder=replace(DECODER, embedding_combination="concat"),
    ),
    "relative, post-norm": EncoderDecoderConfig(
        encoder=replace(TEXT, positions="relative"),
        decoder=with_blocks(replace(DECODER, positions="relative"), norm_position="post", layer_scale=0.1),
    ),
    "heads of another width, one table of tokens": EncoderDecoderConfig(
        encoder=with_blocks(replace(TEXT, vocabulary_size=11), attention_width=12),
        decoder=with_blocks(replace(DECODER, tie_embeddings=True, head_bias=True), attention_width=20),
        share_embeddings=True,
    ),
    "more around the blocks": EncoderDecoderConfig(
        encoder=replace(VIT, num_classes=0, pooling="none"),
        decoder=replace(
            with_blocks(DECODER, width=24, activation="geglu"),
            embedding_norm=True,
            token_types=2,
            position_offset=2,
            head_transform="gelu",
            project_context=True,
        ),
    ),
    "parallel, concatenated": EncoderDecoderConfig(
        encoder=TEXT, decoder=replace(DECODER, parallel_prediction=True, embedding_combination="concat")
    ),
    "ResNet to text": EncoderDecoderConfig(encoder=replace(RESNET, num_classes=0), decoder=DECODER),
    "show, attend and tell": SHOW,
    "show, attend and tell over ViT": replace(SHOW, encoder=replace(VIT, num_classes=0)),
}
RESNETS = {
    "basic": RESNET,
    "bottleneck, small stem": replace(RESNET, block="bottleneck", stem="small", channels=1),
    "no head": replace(RESNET, num_classes=0, depths=(1, 2, 1), widths=(8, 8, 16)),
    "strides first, a wide stem": replace(
        RESNET, block="bottleneck", stride_first=True, halve_first_stage=True, stem_width=16
    ),
}
EVERY = VITS | SEQUENCES | RESNETS
IMAGE = (16, 24)


def inputs_of(config, image_size=IMAGE):
    """Abstract arguments of a forward pass of one example."""
    image = jax.ShapeDtypeStruct((1, *image_size, getattr(config, "channels", 3)), jnp.float32)
    if isinstance(config, VisionTransformerConfig | ResNetConfig):
        return (image,)
    tokens = jax.ShapeDtypeStruct((1, 7), jnp.int32)
    if isinstance(config.encoder, TextEncoderConfig):
        return jax.ShapeDtypeStruct((1, 9), jnp.int32), tokens
    return image, tokens


def forward(config):
    definition, params, stats = abstract(lambda rngs: config.build(rngs=rngs))

    def run(params, *inputs):
        model = merge(definition, params, stats_of(stats))
        if getattr(config, "num_classes", 1):
            return model(*inputs, train=False)
        return model.features(*inputs, train=False).tokens

    return run, params


def stats_of(stats):
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), stats)


def counted(config, image_size=None, **lengths):
    if not isinstance(config, VisionTransformerConfig | ResNetConfig):
        lengths.setdefault("target_length", 7)
    if image_size is None and isinstance(getattr(config, "encoder", config), ResNetConfig):
        image_size = IMAGE
    return complexity(config, image_size=image_size, **lengths)


def products(jaxpr):
    """Operations of all matrix products and convolutions in a traced program, loops included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += repeats * sum(products(inner) for inner in inner_programs(equation))
    return total


def inner_programs(equation):
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
    ):
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value.jaxpr if isinstance(value, ClosedJaxpr) else value


def test_parameters_are_counted_by_part():
    parts = complexity(VIT).parameters
    t = VIT.transformer
    assert parts["feed_forward"] == t.depth * (
        2 * t.width * t.feed_forward_width + t.width + t.feed_forward_width
    )
    assert parts["norms"] == (2 * t.depth + 1) * 2 * t.width
    assert {"encoder/attention", "decoder/cross_attention"} <= set(
        complexity(SEQUENCES["text to text"]).parameters
    )
    assert {"stage1", "stage2", "norms", "head"} <= set(complexity(RESNET, image_size=IMAGE).parameters)


@pytest.mark.parametrize("name", EVERY)
def test_operations_are_the_products_of_the_traced_program(name):
    config = EVERY[name]
    run, params = forward(config)
    traced = products(jax.make_jaxpr(run)(params, *inputs_of(config)).jaxpr)
    saved = 0
    if "shared" in name:  # traced twice and merged by XLA
        length, layers = (7, config.decoder.transformer) if name in SEQUENCES else (12, config.transformer)
        saved = layers.depth * 2 * length * layers.width**2
    assert counted(config).forward_flops == traced - saved


@pytest.mark.parametrize("model", ["ViT", "encoder-decoder"])
@pytest.mark.parametrize(
    "blocks", [{}, {"layer_scale": 0.1}, {"norm_position": "post"}, {"activation": "swiglu"}], ids=str
)
def test_training_is_the_products_of_the_traced_gradient(model, blocks):
    """Three times the forward pass, but that nobody needs the gradient of the images, and what `remat` repeats."""
    forward_only = replace(VIT, num_classes=0, pooling="none")

    def build(remat):
        if model == "ViT":
            return with_blocks(VIT, remat=remat, **blocks)
        encoder, decoder = (with_blocks(part, remat=remat, **blocks) for part in (forward_only, DECODER))
        return EncoderDecoderConfig(encoder=encoder, decoder=decoder)

    def traced(config):
        run, params = forward(config)
        gradient = jax.grad(lambda params, *inputs: jnp.sum(run(params, *inputs) ** 2))
        return products(jax.make_jaxpr(gradient)(params, *inputs_of(config)).jaxpr)

    plain = counted(build("none"))
    patches = next(count for name, count in plain.flops.items() if "patch_embedding" in name)
    assert plain.training_flops == 3 * plain.forward_flops == traced(build("none")) + patches
    for remat in ("full", "dots"):
        assert counted(build(remat)).training_flops == traced(build(remat)) + patches


def test_other_sizes():
    grown = complexity(replace(VIT, positions="rotary"), image_size=(32, 48))
    assert grown.flops["attention_scores"] == 16 * complexity(VIT).flops["attention_scores"]
    assert grown.flops["feed_forward"] == 4 * complexity(VIT).flops["feed_forward"]
    longer = complexity(SEQUENCES["text to text"], source_length=18, target_length=14)
    base = complexity(SEQUENCES["text to text"])
    for part in ("encoder/attention_scores", "decoder/attention_scores", "decoder/cross_attention_scores"):
        assert longer.flops[part] == 4 * base.flops[part]
    assert longer.total_parameters == base.total_parameters


@pytest.mark.parametrize(
    ("config", "image_size", "millions", "giga_multiply_adds"),
    [
        # torchvision's model pages
        (ResNetConfig.standard("18", num_classes=1000), (224, 224), 11.690, 1.814),
        (ResNetConfig.standard("50", num_classes=1000), (224, 224), 25.557, 4.089),
        (ResNetConfig.standard("152", num_classes=1000), (224, 224), 60.193, 11.514),
        # timm's benchmark tables
        (
            VisionTransformerConfig.standard("B/16", num_classes=1000, class_token=True, pooling="cls"),
            None,
            86.57,
            17.58,
        ),
        (
            VisionTransformerConfig.standard("S/16", num_classes=1000, class_token=True, pooling="cls"),
            None,
            22.05,
            4.61,
        ),
    ],
)
def test_published_figures(config, image_size, millions, giga_multiply_adds):
    counts = complexity(config, image_size=image_size)
    assert counts.total_parameters / 1e6 == pytest.approx(millions, abs=0.02)
    assert counts.forward_flops / 2e9 == pytest.approx(giga_multiply_adds, rel=0.005)


# --- XLA's count, which adds the element-wise work: its share falls as the width grows. Layers are unrolled, because
# XLA counts the body of a loop once.

WIDE = TransformerConfig(width=256, depth=2, num_heads=4, feed_forward_width=1024, unroll=True)
WIDE_VIT = VisionTransformerConfig(
    transformer=WIDE, image_size=(64, 64), patch_size=(8, 8), num_classes=100, class_token=True, pooling="cls"
)
LARGE = {
    "ViT": WIDE_VIT,
    "narrow ViT": with_blocks(WIDE_VIT, width=128, feed_forward_width=512, depth=4),
    "wider ViT": with_blocks(WIDE_VIT, width=512, feed_forward_width=2048, num_heads=8),
    "swiglu, shared": with_blocks(WIDE_VIT, activation="swiglu", share_query_key=True),
    "attention pooling": replace(WIDE_VIT, class_token=False, pooling="attention"),
    "encoder-decoder": EncoderDecoderConfig(
        encoder=replace(WIDE_VIT, num_classes=0, pooling="none"),
        decoder=DecoderConfig(WIDE, vocabulary_size=500, max_length=7),
    ),
}


def xla_flops(function, *arguments):
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return analysis["flops"]


@pytest.mark.parametrize("name", LARGE)
def test_forward_is_within_a_few_percent_of_xla(name):
    """5 % at width 256, 10 % at 128, 2.5 % at 512; never above."""
    config = LARGE[name]
    width = getattr(config, "encoder", config).transformer.width
    run, params = forward(config)
    measured = xla_flops(run, params, *inputs_of(config, (64, 64)))
    assert (1 - 12.8 / width) * measured <= counted(config).forward_flops <= measured


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_training_is_within_five_percent_of_xla(remat):
    config = with_blocks(WIDE_VIT, remat=remat, depth=3)
    definition, params, stats = abstract(lambda rngs: config.build(rngs=rngs))

    def loss(params, images):
        return jnp.sum(merge(definition, params, stats)(images, train=True) ** 2)

    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    measured = xla_flops(jax.grad(loss), params, images)
    assert counted(config).training_flops == pytest.approx(measured, rel=0.05)


def test_sizes_that_nobody_gave_are_asked_for():
    with pytest.raises(ValueError, match="image_size"):
        complexity(RESNET)
    with pytest.raises(ValueError, match="target_length"):
        complexity(SHOW, image_size=IMAGE)
    with pytest.raises(ValueError, match="does not divide"):
        complexity(VIT, image_size=(17, 24))
