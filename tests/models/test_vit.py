from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, initial, normal, parts
from vitjax.models.vit_config import SIZES, VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PackedPatches

T = TransformerConfig(width=8, depth=2, num_heads=2, feed_forward_width=12)
CONFIG = VisionTransformerConfig(T, image_size=(8, 12), patch_size=(4, 4), num_classes=5)

OPTIONS: dict[str, dict[str, Any]] = {
    "class token": {"class_token": True, "pooling": "cls"},
    "distillation": {
        "class_token": True,
        "distillation_token": True,
        "distillation_head": True,
        "registers": 1,
        "prefix_positions": 2,
        "pooling": "cls",
    },
    "class token and mean": {"class_token": True, "pooling": "cls_mean"},
    "norms at both ends, few biases": {
        "class_token": True,
        "pooling": "cls",
        "embedding_norm": True,
        "pooler": True,
        "final_norm": "pooled",
        "patch_bias": False,
        "head_use_bias": False,
        "transformer": replace(T, qkv_bias="query_value"),
    },
    "attention pooling, sinusoidal": {"pooling": "attention", "registers": 2, "positions": "sinusoidal"},
    "no positions, stem": {
        "positions": "none",
        "stem_widths": (4, 6),
        "stem_strides": (2, 1),
        "patch_size": (2, 2),
    },
    "sinusoidal, concatenated, overlapping, one channel": {
        "positions": "sinusoidal",
        "embedding_combination": "concat",
        "patch_size": (8, 6),
        "patch_stride": (4, 4),
        "channels": 1,
    },
    "learned, concatenated, post-norm": {
        "embedding_combination": "concat",
        "transformer": replace(T, norm_position="post", activation="relu"),
    },
    "relative, additive": {
        "positions": "relative",
        "registers": 1,
        "transformer": replace(T, attention_score="additive", activation="quick_gelu"),
    },
    "learned and relative, a table of each layer, of the prefix too": {
        "positions": "learned_relative",
        "relative_tables": "layers",
        "relative_prefix": True,
        "relative_interpolation": "linear_geometric",
        "class_token": True,
        "transformer": replace(T, qkv_bias="query_value"),
    },
    "rotary in shares of the image": {
        "positions": "rotary",
        "rotary_unit": "image",
        "rotary_base": 50.0,
        "patch_size": (3, 5),
        "drop_remainder": True,
    },
    "rotary, rms, swiglu, no bias": {
        "positions": "rotary",
        "registers": 1,
        "transformer": replace(T, norm="rms", activation="swiglu", use_bias=False),
    },
    "batch norm, layer scale": {
        "transformer": replace(T, norm="batch", layer_scale=0.3, norm_epsilon=1e-3, activation="gelu_tanh")
    },
    "other attention, unrolled": {
        "transformer": replace(
            T, query_key_norm=True, share_query_key=True, query_key_scale=1.5, unroll=True, remat="dots"
        )
    },
    "bfloat16, recomputed": {"transformer": replace(T, dtype="bfloat16", remat="full", activation="silu")},
}


@cache
def model(config: VisionTransformerConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: config.build(rngs=rngs))


@partial(jax.jit, static_argnums=0, static_argnames=("train", "return_attention"))
def features(definition, params, stats, images, *, train=False, key=None, return_attention=False):
    module = functional.merge(definition, params, stats)
    return module.features(images, train=train, key=key, return_attention=return_attention)


@partial(jax.jit, static_argnums=0, static_argnames="train")
def logits(definition, params, stats, images, *, train=False, key=None):
    return functional.merge(definition, params, stats)(images, train=train, key=key)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option: str) -> None:
    """Shapes, dtypes, finite gradients that reach every parameter."""
    config = replace(CONFIG, **OPTIONS[option])
    definition, params, stats = model(config)
    images = normal(3, 8, 12, config.channels)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # runs once: compile it fast
    def step(params):
        def loss(params):
            module = functional.merge(definition, params, stats)
            out = module(images, train=True)
            return jnp.mean(out**2), (out, functional.stats_of(module))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (out, after)), gradients = step(params)
    assert out.shape == (3, 5) and out.dtype == jnp.float32 and np.isfinite(out).all()
    assert jax.tree.structure(after) == jax.tree.structure(stats)
    assert bool(stats) == (config.transformer.norm == "batch" or bool(config.stem_widths))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all(), name
        # a constant added to all keys changes no softmax; with shared matrices or norms it does
        inert = "['key']['bias']" in name and config.transformer.attention_score == "dot"
        if config.transformer.norm == "batch" and "bias" in name and "sublayer" not in name:
            inert = True  # nor does one added before the mean over the batch is taken out
        assert inert or np.abs(leaf).max() > 0, name
    assert np.abs(np.asarray(out) - np.asarray(out)[:1]).max() > 0


def test_against_numpy() -> None:
    """The whole network of the paper: patches, class token, positions, blocks, norm, head."""
    config = replace(CONFIG, class_token=True, pooling="cls")
    definition, params, stats = model(config)
    images = normal(2, 8, 12, 3)
    patches = (
        np.asarray(images, float).reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 48)
    )
    projection = params["patch_embedding"]["projection"]
    x = patches @ np.asarray(projection["kernel"], float).reshape(48, 8) + np.asarray(projection["bias"])
    x = x + np.asarray(params["positions"]["embedding"])
    x = np.concatenate([np.broadcast_to(params["class_token"], (2, 1, 8)), x], axis=1)

    def norm(x, p):
        return reference.layer_norm(x, np.asarray(p["scale"]), np.asarray(p["bias"]))

    for layer in range(2):
        p = jax.tree.map(lambda leaf, i=layer: leaf[i], params["blocks"])
        entered = norm(x, p["attention_sublayer"]["norm"])
        x = x + reference.multi_head_attention(entered, entered, p["attention"])
        x = x + reference.feed_forward(norm(x, p["feed_forward_sublayer"]["norm"]), p["feed_forward"], "gelu")
    x = norm(x, params["norm"])
    got = features(definition, params, stats, images)
    np.testing.assert_allclose(got.tokens, x, rtol=1e-4, atol=3e-5)
    np.testing.assert_array_equal(got.pooled, got.tokens[:, 0])
    want = reference.linear(x[:, 0], params["head"])
    np.testing.assert_allclose(logits(definition, params, stats, images), want, rtol=1e-4, atol=3e-5)


def test_pooling_reads_what_it_says() -> None:
    images = normal(2, 8, 12, 3)
    config = replace(CONFIG, class_token=True, registers=2, num_classes=0)
    definition, params, stats = model(config)
    out = features(definition, params, stats, images)
    assert out.tokens.shape == (2, 3 + 6, 8) and config.prefix == 3
    np.testing.assert_allclose(out.pooled, out.tokens[:, 3:].mean(1), rtol=1e-5, atol=1e-6)
    definition, params, stats = model(replace(config, pooling="none"))
    assert features(definition, params, stats, images).pooled is None


def test_attention_on_request() -> None:
    definition, params, stats = model(replace(CONFIG, registers=1))
    images = normal(2, 8, 12, 3)
    plain = features(definition, params, stats, images)
    asked = features(definition, params, stats, images, return_attention=True)
    assert plain.attention is None and asked.attention.shape == (2, 2, 2, 7, 7)
    np.testing.assert_array_equal(plain.tokens, asked.tokens)
    np.testing.assert_allclose(asked.attention.sum(-1), 1, rtol=1e-5)


@given(st.permutations(range(4)))
def test_batch_permutation(order: list[int]) -> None:
    definition, params, stats = model(CONFIG)
    images = normal(4, 8, 12, 3)
    permuted = logits(definition, params, stats, images[jnp.asarray(order)])
    np.testing.assert_allclose(
        permuted, logits(definition, params, stats, images)[jnp.asarray(order)], rtol=1e-5, atol=1e-5
    )


@given(st.permutations(range(6)))
def test_without_positions_patches_are_a_set(order: list[int]) -> None:
    definition, params, stats = model(replace(CONFIG, positions="none"))

    def shuffled(order):
        patches = normal(1, 6, 4, 4, 3)[:, jnp.asarray(order)].reshape(1, 2, 3, 4, 4, 3)
        return patches.transpose(0, 1, 3, 2, 4, 5).reshape(1, 8, 12, 3)

    want = features(definition, params, stats, shuffled(range(6)))
    got = features(definition, params, stats, shuffled(order))
    np.testing.assert_allclose(got.tokens, want.tokens[:, jnp.asarray(order)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.pooled, want.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "relative", "rotary"])
def test_with_positions_they_are_not(positions: str) -> None:
    definition, params, stats = model(replace(CONFIG, positions=positions))
    images = normal(1, 8, 12, 3)
    swapped = jnp.concatenate([images[:, 4:], images[:, :4]], axis=1)
    before, after = (features(definition, params, stats, i).pooled for i in (images, swapped))
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize(
    "positions", ["none", "learned", "sinusoidal", "relative", "learned_relative", "rotary"]
)
def test_any_image_size(positions: str) -> None:
    config = replace(CONFIG, positions=positions, class_token=True, pooling="cls")
    definition, params, stats = model(config)
    for height, width in ((8, 12), (16, 8), (4, 20), (12, 4)):
        images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
        out = jax.eval_shape(partial(features, definition), params, stats, images)
        assert out.tokens.shape == (2, 1 + height * width // 16, 8)
    assert np.isfinite(features(definition, params, stats, normal(2, 16, 8, 3)).tokens).all()


def test_what_patches_leave_over_is_not_looked_at() -> None:
    definition, params, stats = model(replace(CONFIG, drop_remainder=True))
    images = normal(1, 9, 14, 3)
    np.testing.assert_array_equal(
        features(definition, params, stats, images).tokens,
        features(definition, params, stats, images[:, :8, :12]).tokens,
    )
    with pytest.raises(ValueError, match="does not divide it"):
        CONFIG.grid((9, 14))


def test_tables_of_each_layer_are_its_own() -> None:
    """With equal tables the model is the one with a shared table; the second layer's moves the result."""
    shared = replace(CONFIG, positions="relative", relative_prefix=True, registers=1)
    each = replace(shared, relative_tables="layers")
    definition, params, stats = model(shared)
    table = params["relative_bias"]
    rest = {name: value for name, value in params.items() if name != "relative_bias"}
    moved = {
        **rest,
        "blocks": {
            **rest["blocks"],
            "relative_bias": jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), table),
        },
    }
    images = normal(2, 12, 16, 3)
    want = logits(definition, params, stats, images)
    np.testing.assert_allclose(logits(model(each)[0], moved, stats, images), want, rtol=1e-5, atol=1e-5)
    moved["blocks"]["relative_bias"]["embedding"] += jnp.asarray([0.0, 1.0])[:, None, None] * normal(15, 2)
    assert np.abs(logits(model(each)[0], moved, stats, images) - want).max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "attention", "position_interpolation": "bilinear_antialias"},
        {"pooling": "cls_mean", "class_token": True, "registers": 1, "prefix_positions": 1},
    ],
    ids=str,
)
def test_images_of_many_shapes_in_one_batch(options: dict[str, Any]) -> None:
    """Each gives what it gives alone; padding changes nothing."""
    config = replace(CONFIG, **options)
    definition, params, stats = model(config)
    images = [normal(height, width, 3) for height, width in ((8, 12), (4, 24), (16, 4))]
    packed = PackedPatches.of([np.asarray(image) for image in images], config.patch_size, length=7)
    got = features(definition, params, stats, packed)
    for row, image in enumerate(images):
        want = features(definition, params, stats, image[None])
        count = want.tokens.shape[1]
        np.testing.assert_allclose(got.tokens[row, :count], want.tokens[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.pooled[row], want.pooled[0], rtol=1e-4, atol=1e-5)
    noise = packed.pixels + 5 * ~packed.mask[..., None]
    again = features(definition, params, stats, PackedPatches(noise, packed.grids))
    np.testing.assert_allclose(again.pooled, got.pooled, rtol=1e-5, atol=1e-6)


def test_another_size_interpolates_the_positions_and_nothing_else() -> None:
    config = replace(CONFIG, position_interpolation="bicubic")
    definition, params, stats = model(config)
    images = normal(1, 16, 16, 3)
    resized = reference.resize_cubic(np.asarray(params["positions"]["embedding"]).reshape(2, 3, 8), 4, 4)
    other = model(replace(config, image_size=(16, 16)))[0]
    moved = {**params, "positions": {"embedding": jnp.asarray(resized.reshape(16, 8), jnp.float32)}}
    np.testing.assert_allclose(
        logits(definition, params, stats, images), logits(other, moved, stats, images), rtol=1e-4, atol=1e-5
    )


def abstract_logits(variant: str, size: tuple[int, int], **options: Any) -> tuple[int, ...]:
    config = VisionTransformerConfig.standard(variant, num_classes=10, **options)
    definition, params, stats = functional.abstract(lambda rngs: config.build(rngs=rngs))
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(partial(logits, definition), params, stats, images).shape


def test_384x256_from_a_224_model() -> None:
    assert abstract_logits("B/16", (384, 256)) == (2, 10)
    assert abstract_logits("S/32", (384, 256), positions="relative") == (2, 10)
    with pytest.raises(
        ValueError, match=r"image \(100, 100\) gives 100x100 pixels to patches of stride 16x16"
    ):
        abstract_logits("B/16", (100, 100))


# timm's counts: class token, 1000 classes, 224 pixels. Its class token has a position of its own, D numbers that are
# only ever added to the token; here that sum is one vector.
TIMM = {"Ti/16": 5_717_416, "S/16": 22_050_664, "B/16": 86_567_656, "L/16": 304_326_632, "B/32": 88_224_232}


def parameter_count(variant: str, **options: Any) -> int:
    config = VisionTransformerConfig.standard(variant, **options)
    params = functional.abstract(lambda rngs: config.build(rngs=rngs))[1]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("variant", TIMM)
def test_parameter_counts(variant: str) -> None:
    count = parameter_count(variant, num_classes=1000, class_token=True, pooling="cls")
    assert count + SIZES[variant.split("/")[0]][0] == TIMM[variant]


def test_head_widths_of_the_standard_sizes() -> None:
    """The one number that the parameter count does not tell."""
    widths = {name: VisionTransformerConfig.standard(f"{name}/14").transformer.head_width for name in SIZES}
    assert widths == {
        "Ti": 64, "S": 64, "B": 64, "L": 64, "H": 80, "So400m": 72, "g": 88, "G": 104,
    }  # fmt: skip


def test_rotary_counts_rows_and_columns_behind_the_prefix() -> None:
    """The first block's attention over a grid of 2 x 3, against complex rotations."""
    config = replace(CONFIG, positions="rotary", class_token=True, pooling="cls")
    definition, params, stats = model(config)
    images = normal(1, 8, 12, 3)
    x, _ = functional.merge(definition, params, stats).embed(images, train=False)
    p = jax.tree.map(lambda leaf: np.asarray(leaf[0], float), params["blocks"])
    norm = p["attention_sublayer"]["norm"]
    x = reference.layer_norm(x, norm["scale"], norm["bias"])[0]
    cells = [(0, 0), *np.ndindex(2, 3)]  # the class token is not turned, as if in row and column 0
    angles = np.array(
        [[row, column] for row, column in cells], float
    )  # head width 4: one pair each, frequency 1
    query, key = (
        np.stack(
            [
                reference.rotate(x @ layer["kernel"][:, head] + layer["bias"][head], angles)
                for head in range(2)
            ],
            axis=1,
        )[None]
        for layer in (p["attention"]["query"], p["attention"]["key"])
    )
    got = features(definition, params, stats, images, return_attention=True).attention[0]
    np.testing.assert_allclose(got, reference.dot_weights(query, key), rtol=1e-3, atol=1e-5)


def test_all_standard_sizes_and_any_patch() -> None:
    for name, millions in {"H": 631, "So400m": 412, "g": 1011, "G": 1843}.items():
        assert round(parameter_count(f"{name}/14") / 1e6) == millions, name
    config = VisionTransformerConfig.standard("S/7", image_size=(70, 35), transformer={"dropout": 0.1})
    assert config.grid(config.image_size) == (10, 5) and config.transformer.dropout == 0.1
    for wrong in ("X/16", "B16", "B/x", "B/"):
        with pytest.raises(
            ValueError, match="write one of Ti, S, B, L, H, So400m, g, G, a slash and a patch"
        ):
            VisionTransformerConfig.standard(wrong)


def test_one_trace_for_one_config() -> None:
    traces = 0

    @partial(jax.jit, static_argnums=0)
    def forward(definition, params, images):
        nonlocal traces
        traces += 1
        return functional.merge(definition, params)(images, train=False)

    params = model(CONFIG)[1]
    for _ in range(2):  # a config that is equal, not the same
        config = replace(CONFIG, transformer=replace(T))
        definition = functional.abstract(lambda rngs, c=config: c.build(rngs=rngs))[0]
        assert definition == model(CONFIG)[0] and hash(definition) == hash(model(CONFIG)[0])
        forward(definition, params, normal(1, 8, 12, 3))
    assert traces == 1
    assert functional.abstract(lambda rngs: replace(CONFIG, registers=1).build(rngs=rngs))[0] != definition


def test_dropout_needs_a_key_in_train_mode() -> None:
    config = replace(CONFIG, transformer=replace(T, dropout=0.5, attention_dropout=0.5, stochastic_depth=0.5))
    definition, params, stats = model(config)
    images = normal(2, 8, 12, 3)
    with pytest.raises(ValueError, match="needs a key"):
        logits(definition, params, stats, images, train=True)
    calm = logits(definition, params, stats, images)
    np.testing.assert_array_equal(calm, logits(model(CONFIG)[0], params, stats, images))
    first, again, other = (
        logits(definition, params, stats, images, train=True, key=jax.random.key(k, impl="rbg"))
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - calm).max() > 1e-2 and np.abs(first - other).max() > 1e-2


def test_bfloat16_is_near_float32_and_logits_are_not_rounded() -> None:
    low, exact = (
        logits(*model(replace(CONFIG, transformer=replace(T, dtype=dtype))), normal(16, 8, 12, 3))
        for dtype in ("bfloat16", "float32")
    )
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, exact, atol=0.2)
    assert np.abs(low - low.astype(jnp.bfloat16)).max() > 0


def test_a_fresh_head_says_its_bias() -> None:
    config = replace(CONFIG, head_bias=-np.log(5.0).item())
    definition, params, stats = initial(lambda rngs: config.build(rngs=rngs))
    out = logits(definition, params, stats, normal(2, 8, 12, 3))
    np.testing.assert_allclose(out, np.full((2, 5), -np.log(5.0)), rtol=1e-6)


def test_gradients() -> None:
    config = replace(CONFIG, pooling="attention", registers=1, positions="rotary")
    definition, params, stats = model(replace(config, transformer=replace(T, depth=1)))
    gradients_match(
        lambda params, images: functional.merge(definition, params, stats)(images, train=False),
        params,
        normal(1, 8, 12, 3),
    )


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match="pooling 'cls' needs class_token=True"):
        replace(CONFIG, pooling="cls")
    with pytest.raises(ValueError, match="5 classes .* pooling 'none' leaves them nothing"):
        replace(CONFIG, pooling="none")
    with pytest.raises(ValueError, match=r"stem_widths \(\) and stem_strides \(2,\) must have equal length"):
        replace(CONFIG, stem_strides=(2,))
    definition, params, stats = model(replace(CONFIG, num_classes=0))
    with pytest.raises(ValueError, match=r"no head \(num_classes=0\): use \.features"):
        logits(definition, params, stats, normal(1, 8, 12, 3))
    module = functional.merge(definition, params, stats)
    with pytest.raises(ValueError, match="overlapping ones are padded"):
        replace(CONFIG, drop_remainder=True, patch_stride=(2, 2))
    packed = PackedPatches(normal(1, 6, 48), jnp.asarray([[2, 3]]))
    relative = functional.merge(*model(replace(CONFIG, positions="relative")))
    with pytest.raises(ValueError, match="packed patches need positions 'learned' or 'none'"):
        relative(packed, train=False)
    with pytest.raises(ValueError, match="an image encoder takes no source_mask"):
        module.encode(normal(1, 8, 12, 3), source_mask=jnp.ones((1, 6), bool), train=False)
