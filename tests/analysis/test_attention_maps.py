import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.decoding.test_generate import compilations
from tests.nn.trees import normal, parts
from vitjax.analysis.attention_maps import attention_maps, cross_attention_maps
from vitjax.data.preprocess import Preprocess
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import Nudges
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import merge

T = TransformerConfig(width=8, depth=2, num_heads=2, feed_forward_width=12)
CONFIG = VisionTransformerConfig(T, image_size=(8, 12), patch_size=(4, 4), num_classes=5)
CLASS = dataclasses.replace(CONFIG, class_token=True, pooling="cls")
RESNET = ResNetConfig((1, 1), (4, 6), stem="small", num_classes=5)
DECODER = DecoderConfig(T, vocabulary_size=11, max_length=6)
WRITER = EncoderDecoderConfig(
    dataclasses.replace(CONFIG, num_classes=0, registers=1, pooling="none"), DECODER
)
TELLER = ShowAttendTellConfig(
    dataclasses.replace(RESNET, num_classes=0), 11, width=8, embedding_width=6, attention_width=6
)
GENERATION = GenerationConfig(max_length=5, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)


def build(config: Any, preprocess: Preprocess | None = None) -> Model:
    definition, params, stats = parts(lambda rngs: config.build(rngs=rngs), scale=0.7)
    return Model(config, params, stats, preprocess, None, GENERATION)


def unrolled(params: dict, images: jax.Array, added: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """Logits and attention of a ViT with a class token, written out; to the weights of each layer something is added.

    The gradient by it is that by the weights.
    """

    def norm(x, p):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def linear(x, p, form):
        return jnp.einsum(form, x, p["kernel"]) + p["bias"]

    embedding = params["patch_embedding"]["projection"]
    patches = images.reshape(-1, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 4, 4, 3)
    x = jnp.einsum("bnyxc,yxcd->bnd", patches, embedding["kernel"]) + embedding["bias"]
    x = x + params["positions"]["embedding"].reshape(1, 6, 8)
    x = jnp.concatenate([jnp.broadcast_to(params["class_token"], (len(x), 1, 8)), x], axis=1)
    attention = []
    for layer, more in enumerate(added):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        h = norm(x, p["attention_sublayer"]["norm"])
        query, key, value = (
            linear(h, p["attention"][name], "bnd,dhc->bnhc") for name in ("query", "key", "value")
        )
        weights = jax.nn.softmax(jnp.einsum("bnhc,bmhc->bhnm", query, key) / 2, axis=-1)
        attention.append(weights)
        values = jnp.einsum("bhnm,bmhc->bnhc", weights + more, value)
        x = x + linear(values, p["attention"]["out"], "bnhc,hcd->bnd")
        h = norm(x, p["feed_forward_sublayer"]["norm"])
        h = jax.nn.gelu(linear(h, p["feed_forward"]["up"], "bnd,df->bnf"), approximate=False)
        x = x + linear(h, p["feed_forward"]["down"], "bnf,fd->bnd")
    return linear(norm(x, params["norm"])[:, 0], params["head"], "bd,dk->bk"), attention


def test_against_a_model_written_out() -> None:
    """Weights, rollout by products of matrices, gradients by the weights themselves."""
    model, images, target = build(CLASS), normal(3, 8, 12, 3), np.array([4, 0, 2])
    added = [jnp.zeros((3, 2, 7, 7))] * 2
    logits, attention = jax.jit(unrolled)(model.params, images, added)

    def spoken_for(added):
        return unrolled(model.params, images, added)[0][jnp.arange(3), target].sum()

    gradients = jax.jit(jax.grad(spoken_for))(added)
    both = [np.asarray(weights, float) for weights in attention]
    raw = attention_maps(model, images, method="raw")
    np.testing.assert_allclose(raw.logits, logits, rtol=1e-4, atol=1e-4)
    want = np.stack([weights[:, :, 0, 1:].reshape(3, 2, 2, 3) for weights in both], axis=1)
    np.testing.assert_allclose(raw.weights, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(raw.relevance, want[:, -1].mean(1), rtol=1e-4, atol=1e-5)

    first, second = (0.5 * weights.mean(1) + 0.5 * np.eye(7) for weights in both)
    rollout = attention_maps(model, images)
    want = (second @ first)[:, 0, 1:].reshape(3, 2, 3)
    np.testing.assert_allclose(rollout.relevance, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(rollout.weights, raw.weights)

    relevance = np.eye(7)
    for weights, gradient in zip(both, gradients, strict=True):
        relevance = relevance + np.maximum(weights * gradient, 0).mean(1) @ relevance
    weighted = attention_maps(model, images, method="gradient_rollout", target=target)
    want = relevance[:, 0, 1:].reshape(3, 2, 3)
    assert want.max() > 0.05
    np.testing.assert_allclose(weighted.relevance, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(weighted.target, target)


VARIANTS: dict[str, VisionTransformerConfig] = {
    "mean": dataclasses.replace(CONFIG, registers=1),
    "distillation": dataclasses.replace(
        CLASS, distillation_token=True, distillation_head=True, registers=2, prefix_positions=2
    ),
    "attention pooling": dataclasses.replace(CONFIG, pooling="attention"),
    "class token and mean, relative tables of each layer": dataclasses.replace(
        CLASS,
        pooling="cls_mean",
        positions="learned_relative",
        relative_tables="layers",
        relative_prefix=True,
        transformer=dataclasses.replace(T, layer_scale=0.5, remat="full"),
    ),
    "rotary, additive, unrolled": dataclasses.replace(
        CONFIG,
        positions="rotary",
        transformer=dataclasses.replace(T, attention_score="additive", unroll=True),
    ),
    "merged": dataclasses.replace(CLASS, merged_tokens=2),
}


def seen_through(config: VisionTransformerConfig, method: str, attention: Any, pool: Any) -> np.ndarray:
    """The relevance of all tokens, by products of whole matrices; of contributions for `gradient_rollout`."""
    attention = np.asarray(attention, float).mean(2)  # [L, B, N, N]
    tokens = attention.shape[-1]
    whole = np.eye(tokens)
    for layer in attention:
        whole = whole + layer @ whole if method == "gradient_rollout" else (whole + layer @ whole) / 2
    if pool is not None:
        return (np.asarray(pool, float).mean(1) @ whole)[:, 0]
    if method == "gradient_rollout":
        whole = whole - np.eye(tokens)
    patches = whole[:, config.prefix :].mean(1)
    match config.pooling, config.distillation_head:
        case "mean", _:
            return patches
        case "cls_mean", _:
            return (whole[:, 0] + patches) / 2
        case "cls", True:
            return whole[:, :2].mean(1)
    return whole[:, 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_model_and_size(variant: str) -> None:
    config = VARIANTS[variant]
    model, images, tokens = build(config), normal(2, 12, 8, 3), 6 + config.prefix  # another size than its own

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # runs once: compile it fast
    def parts_of(params):
        def spoken_for(nudges):
            module = merge(model.definition, params, model.stats)
            features = module.features(images, train=False, nudges=nudges, return_attention=True)
            return module.classify(features).max(-1).sum(), features

        nudges = Nudges(jnp.zeros((2, 2, 2, tokens, tokens)))
        if config.pooling == "attention":
            nudges = nudges._replace(pool_attention=jnp.zeros((2, 2, 1, tokens)))
        return jax.grad(spoken_for, has_aux=True)(nudges)

    contributions, features = parts_of(model.params)
    weights = (features.attention, features.pool_attention)
    positive = jax.tree.map(lambda x: np.maximum(x, 0), tuple(contributions))
    for method, each in (("gradient_rollout", positive), ("rollout", weights)):
        want = seen_through(config, method, *each)[:, config.prefix :].reshape(2, 3, 2)
        maps = attention_maps(model, images, method=method)
        assert want.max() > 1e-3 and np.ptp(want) > 1e-3
        np.testing.assert_allclose(maps.relevance, want, rtol=2e-3, atol=1e-4)
        assert maps.weights.shape == (2, 3 if config.pooling == "attention" else 2, 2, 3, 2)
        assert np.asarray(maps.weights).min() >= 0 and np.asarray(maps.weights).sum((-1, -2)).max() < 1 + 1e-5
        said = None if method == "rollout" else maps.logits.argmax(-1)
        np.testing.assert_array_equal(maps.target, said)
        if variant not in ("attention pooling", "merged"):
            break


def test_one_program_for_all_classes() -> None:
    model, images = build(CLASS), normal(3, 8, 12, 3)
    jax.clear_caches()
    with compilations() as names:
        attention_maps(model, images, method="gradient_rollout", target=1)
        attention_maps(model, images + 1, method="gradient_rollout", target=[0, 1, 4])
    assert names.count("jit(_maps)") + names.count("_maps") == 1 and len(names) <= 2, (
        names
    )  # images + 1 is the other
    writer, tokens = build(WRITER), np.ones((3, 4), np.int32)
    with compilations() as names:
        cross_attention_maps(writer, images, tokens)
        cross_attention_maps(writer, images, tokens + 1)
    assert len(names) == 1, names


@pytest.mark.parametrize("config", [WRITER, TELLER], ids=["transformer", "lstm over a resnet"])
def test_cross_attention_is_that_of_generate(config: Any) -> None:
    model, images = build(config), normal(3, 8, 12, 3)
    out = model.generate(images, return_attention=True)
    maps = cross_attention_maps(model, images, out.tokens[:, 0])
    layers, heads, rows, columns = (2, 2, 2, 3) if config is WRITER else (1, 1, 4, 6)
    assert maps.weights.shape == (3, out.tokens.shape[-1] - 1, layers, heads, rows, columns)
    np.testing.assert_allclose(maps.mean, out.attention_maps()[:, 0], rtol=1e-4, atol=1e-6)
    assert np.ptp(np.asarray(maps.mean)) > 1e-3
    left = np.pad(np.asarray(out.tokens[:, 0]), ((0, 0), (1, 0)))  # a padded prompt changes nothing
    mask = np.arange(left.shape[1])[None].repeat(3, 0) > 0
    shifted = cross_attention_maps(model, images, left, token_mask=mask)
    np.testing.assert_allclose(shifted.weights[:, 1:], maps.weights, rtol=1e-4, atol=1e-6)


def test_the_encoder_of_a_model_that_writes() -> None:
    maps = attention_maps(build(WRITER), normal(2, 8, 12, 3))
    assert maps.weights.shape == (2, 2, 2, 2, 3) and maps.logits is None and maps.target is None
    assert 0 < np.asarray(maps.relevance).sum((1, 2)).max() <= 1  # a register has the rest


def test_saved_as_pictures_and_arrays(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    preprocess = Preprocess(image_size=(8, 12))
    maps = attention_maps(build(CLASS, preprocess), images, method="gradient_rollout", target=3)
    maps.save(tmp_path / "new" / "self", images)
    with np.load(tmp_path / "new" / "self" / "attention_maps.npz") as arrays:
        assert set(arrays) == {"weights", "relevance", "logits", "target"}
        np.testing.assert_array_equal(arrays["relevance"], maps.relevance)
    cross = cross_attention_maps(build(WRITER, preprocess), images, np.array([[1, 5, 7, 2]] * 2))
    cross.save(tmp_path / "cross", pieces=[["a", "b", ""], [""]])
    with np.load(tmp_path / "cross" / "cross_attention_maps.npz") as arrays:
        assert arrays["weights"].shape == (2, 3, 2, 2, 2, 3) and arrays["tokens"].tolist()[1] == [1, 5, 7, 2]
    drawn = {}
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as picture:
            drawn[path.relative_to(tmp_path).as_posix()] = np.asarray(picture.convert("RGB"), int)
    assert set(drawn) == {f"new/self/{row}{kind}.png" for row in "01" for kind in ("", "_heads")} | {
        "cross/0.png",
        "cross/1.png",
    }
    for pixels in drawn.values():
        assert (np.ptp(pixels, axis=-1) > 60).mean() > 0.01  # there is heat in it
    assert drawn["new/self/0_heads.png"].size > drawn["new/self/0.png"].size
    assert drawn["cross/0.png"].shape != drawn["cross/1.png"].shape  # fewer pieces


def test_errors_teach() -> None:
    images, classifier, writer = normal(2, 8, 12, 3), build(CLASS), build(WRITER)
    tokens = np.ones((2, 3), np.int32)
    text = EncoderDecoderConfig(TextEncoderConfig(T, vocabulary_size=11, max_length=6), DECODER)
    plain = build(dataclasses.replace(CONFIG, num_classes=0))
    for call, message in [
        (partial(attention_maps, build(RESNET), images), "a ResNet has no attention to map$"),
        (partial(attention_maps, build(TELLER), images), "its decoder has, see cross_attention_maps"),
        (partial(attention_maps, build(text), tokens), "this model reads text, not images"),
        (partial(cross_attention_maps, build(text), tokens, tokens), "this model reads text, not images"),
        (partial(cross_attention_maps, classifier, images, tokens), "has no decoder: use attention_maps"),
        (partial(attention_maps, plain, images, method="gradient_rollout"), "names none: use rollout"),
        (partial(attention_maps, writer, images, method="gradient_rollout"), "names none: use rollout"),
        (partial(attention_maps, classifier, images, target=1), "the same for every class"),
        (
            partial(attention_maps, classifier, images, method="gradient_rollout", target=5),
            "the classes are 0 to 4",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(Exception, match="'?raw'?, '?rollout'?, '?gradient_rollout'?"):  # by beartype or by us
        attention_maps(classifier, images, method="mean")
