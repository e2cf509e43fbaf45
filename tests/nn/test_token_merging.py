"""Token merging: against a loop in NumPy, and exact where all that is merged was equal."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from tests.nn.trees import normal, parts
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.vit import Nudges
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PackedPatches
from vitjax.nn.token_merging import Groups, Matching, merged_per_layer

T = TransformerConfig(width=8, depth=3, num_heads=2, feed_forward_width=12)
# two rows of eight patches each
CONFIG = VisionTransformerConfig(
    T, (4, 16), (2, 2), num_classes=5, class_token=True, registers=1, pooling="cls", merged_tokens=3
)
N = 2 + 16


@cache
def model(config: VisionTransformerConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: config.build(rngs=rngs))


@partial(jax.jit, static_argnums=0, static_argnames="return_attention")
def features(config, params, stats, images, *, return_attention=False):
    definition = functional.abstract(lambda rngs: config.build(rngs=rngs))[0]
    module = functional.merge(definition, params, stats)
    return module.features(images, train=False, return_attention=return_attention)


def rows_of_equal_patches() -> jax.Array:
    patches = normal(2, 2, 1, 2, 2, 3)  # [B, rows, 1, h, w, ch]
    return jnp.broadcast_to(patches, (2, 2, 8, 2, 2, 3)).swapaxes(2, 3).reshape(2, 4, 16, 3)


def test_at_most_half_of_what_is_left() -> None:
    assert merged_per_layer(16, 3, 4) == [3, 3, 3, 3]
    assert merged_per_layer(16, 100, 6) == [8, 4, 2, 1, 0, 0]
    assert merged_per_layer(7, 3, 3) == [3, 2, 1]


@pytest.mark.parametrize("prefix, count", [(0, 3), (2, 5), (1, 6)])
def test_matching_against_a_loop(prefix: int, count: int) -> None:
    keys, x = normal(2, prefix + 13, 2, 4), normal(2, prefix + 13, 5, seed=1)
    start = Groups.single(x)
    start = start._replace(
        sizes=jnp.asarray(np.random.default_rng(0).integers(1, 4, start.sizes.shape), jnp.float32)
    )
    merged, groups = jax.jit(lambda *of: Matching.of(of[0], count, prefix=prefix).join(*of[1:]))(
        keys, x, start
    )
    for row in range(2):
        means = np.asarray(keys[row], float).mean(axis=1)[prefix:]
        means /= np.linalg.norm(means, axis=-1, keepdims=True)
        best = []  # similarity, patch, partner of every other patch
        for patch in range(0, 13, 2):
            best.append(max((float(means[patch] @ means[other]), patch, other) for other in range(1, 13, 2)))
        members = {token: [token] for token in range(prefix + 13)}
        for _, patch, other in sorted(best, reverse=True)[:count]:
            members[prefix + other] += members.pop(prefix + patch)
        for place, group in enumerate(members[token] for token in sorted(members)):
            sizes = np.asarray(start.sizes[row])[group]
            want = sizes @ np.asarray(x[row], float)[group] / sizes.sum()
            np.testing.assert_allclose(merged[row, place], want, rtol=1e-5, atol=1e-6)
            assert groups.sizes[row, place] == sizes.sum()
            assert all(groups.of[row, token] == place for token in group)


@pytest.mark.parametrize(
    "pooling, merged", [("cls", 3), ("cls", 100), ("mean", 100), ("attention", 100), ("none", 100)]
)
def test_equal_tokens_may_be_merged(pooling: str, merged: int) -> None:
    """A group counts as often as it has members, in every layer and in what follows; so nothing changes."""
    plain = replace(CONFIG, positions="none", merged_tokens=0, num_classes=0, pooling=pooling)
    _, params, stats = model(plain)
    images = rows_of_equal_patches()
    got = features(replace(plain, merged_tokens=merged), params, stats, images, return_attention=True)
    want = features(plain, params, stats, images, return_attention=True)
    np.testing.assert_allclose(got.tokens, want.tokens, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.attention, want.attention, rtol=1e-4, atol=1e-6)
    assert (got.pooled is None) == (want.pooled is None)
    if want.pooled is not None:
        np.testing.assert_allclose(got.pooled, want.pooled, rtol=1e-4, atol=1e-5)


def test_gradients_by_attention_are_unmerged() -> None:
    plain = replace(CONFIG, positions="none", merged_tokens=0)
    _, params, stats = model(plain)

    def gradient(config: VisionTransformerConfig) -> jax.Array:
        definition = functional.abstract(lambda rngs: config.build(rngs=rngs))[0]

        def logit(nudge: jax.Array) -> jax.Array:
            module = functional.merge(definition, params, stats)
            features = module.features(rows_of_equal_patches(), train=False, nudges=Nudges(nudge))
            return module.classify(features)[:, 0].sum()

        return jax.jit(jax.grad(logit))(jnp.zeros((3, 2, 2, N, N)))

    want = gradient(plain)
    np.testing.assert_allclose(
        gradient(replace(plain, merged_tokens=100)), want, rtol=1e-3, atol=1e-4 * np.abs(want).max()
    )


def test_what_comes_out_is_unmerged() -> None:
    _, params, stats = model(CONFIG)
    images = normal(2, 4, 16, 3)
    out = features(CONFIG, params, stats, images, return_attention=True)
    assert out.tokens.shape == (2, N, 8) and out.attention.shape == (3, 2, 2, N, N)
    np.testing.assert_allclose(out.attention.sum(-1), 1, rtol=1e-5)
    groups = [len(np.unique(np.asarray(tokens), axis=0)) for tokens in out.tokens]
    assert groups == [N - 9, N - 9]
    for layer, attention in enumerate(np.asarray(out.attention)):
        for image in attention:  # [H, N, N]: members of a group look alike and are looked at alike
            assert len(np.unique(image[0], axis=0)) == len(np.unique(image[0], axis=1).T) == N - 3 * layer
    prefix = np.asarray(out.tokens)[:, :2, None]
    assert (np.abs(prefix - np.asarray(out.tokens)[:, None]).max(-1) > 0).sum(
        -1
    ).min() == N - 1  # all but itself
    np.testing.assert_array_equal(features(CONFIG, params, stats, images).tokens, out.tokens)


@cache
def step(**options: Any) -> tuple[Any, Any, Any]:
    """Output, running statistics and gradients of one step of training, with everything that drops."""
    transformer = replace(T, depth=2, norm="batch", dropout=0.2, stochastic_depth=0.2, **options)
    config = replace(CONFIG, transformer=transformer)
    definition, params, stats = model(config)

    @jax.jit
    def run(params):
        def loss(params):
            module = functional.merge(definition, params, stats)
            out = module(normal(3, 4, 16, 3), train=True, key=jax.random.key(0, impl="rbg"))
            return jnp.mean(out**2), (out, functional.stats_of(module))

        return jax.grad(loss, has_aux=True)(params)

    gradients, (out, after) = run(params)
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(stats), strict=True)]
    assert min(moved) > 0
    return out, after, gradients


def test_it_trains() -> None:
    gradients = step()[2]
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert "['key']['bias']" in name or "registers" in name or np.abs(leaf).max() > 0, name


def test_recomputed_it_is_the_same() -> None:
    for got, want in zip(jax.tree.leaves(step(remat="full")), jax.tree.leaves(step()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


def test_a_number_for_any_trained_model(tmp_path) -> None:
    """No parameter depends on it; our own files keep it, and others refuse what they could not give back."""
    config = replace(CONFIG, registers=0, prefix_positions=1, merged_tokens=0)
    _, params, stats = model(config)
    plain = Model(config, params, stats, None, None, GenerationConfig())
    merging = replace(plain, config=replace(config, merged_tokens=3))
    images = normal(2, 4, 16, 3)
    assert np.abs(merging.logits(images) - plain.logits(images)).max() > 1e-3
    vitjax.save(merging, tmp_path / "own")
    again = vitjax.load(tmp_path / "own")
    assert again.config.merged_tokens == 3
    np.testing.assert_array_equal(again.logits(images), merging.logits(images))
    for format, interpolation in (("hf", "bicubic"), ("timm", "bicubic_antialias")):
        theirs = replace(merging.config, position_interpolation=interpolation)
        vitjax.save(replace(plain, config=replace(theirs, merged_tokens=0)), tmp_path / format, format=format)
        with pytest.raises(ValueError, match="merged_tokens: 0 instead of 3"):
            vitjax.save(replace(merging, config=theirs), tmp_path / "refused", format=format)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"positions": "rotary"}, "'rotary' act inside attention"),
        ({"positions": "learned_relative"}, "'learned_relative' act inside attention"),
        ({"merged_tokens": -1}, "expected 0 or more"),
    ],
)
def test_what_cannot_be_merged(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


def test_packed_patches_are_refused() -> None:
    _, params, stats = model(CONFIG)
    packed = PackedPatches.of([np.zeros((4, 16, 3), np.float32)], (2, 2), length=16)
    with pytest.raises(ValueError, match="packed patches are not merged"):
        features(CONFIG, params, stats, packed)
