import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn import reference, residual
from tests.nn.trees import gradients_match, initial, normal, parts
from vitjax.nn import functional
from vitjax.nn.embeddings import (
    PackedPatches,
    PatchEmbedding,
    TokenEmbedding,
    combine,
    patch_grid,
)


@pytest.mark.parametrize("patch", [(4, 4), (2, 3), (8, 12)])
def test_patch_embedding_is_a_matrix_product_of_unfolded_patches(patch: tuple[int, int]) -> None:
    definition, params, _ = parts(lambda rngs: PatchEmbedding(3, 5, patch_size=patch, rngs=rngs))
    images = normal(2, 8, 12, 3)
    got = functional.merge(definition, params)(images, train=False)
    rows, columns = 8 // patch[0], 12 // patch[1]
    unfolded = np.asarray(images).reshape(2, rows, patch[0], columns, patch[1], 3).transpose(0, 1, 3, 2, 4, 5)
    kernel = np.asarray(params["projection"]["kernel"], float).reshape(-1, 5)
    want = unfolded.reshape(2, rows, columns, -1) @ kernel + np.asarray(params["projection"]["bias"])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("patch", "stride"), [((4, 4), (2, 2)), ((6, 3), (4, 1)), ((3, 3), (4, 4))])
def test_overlapping_patches(patch: tuple[int, int], stride: tuple[int, int]) -> None:
    definition, params, _ = parts(
        lambda rngs: PatchEmbedding(2, 5, patch_size=patch, patch_stride=stride, rngs=rngs)
    )
    images = normal(1, 8, 12, 2)
    got = functional.merge(definition, params)(images, train=False)
    assert got.shape[1:3] == patch_grid((8, 12), patch, stride)
    projection = params["projection"]
    want = reference.convolve(
        np.asarray(images)[0], np.asarray(projection["kernel"]), np.asarray(projection["bias"]), stride
    )
    np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_patches_after_a_convolutional_stem(train: bool) -> None:
    definition, params, stats = parts(
        lambda rngs: PatchEmbedding(
            3, 5, patch_size=(2, 2), stem_widths=(4, 6), stem_strides=(2, 1), rngs=rngs
        )
    )
    assert params["projection"]["kernel"].shape == (2, 2, 6, 5)
    images = normal(2, 8, 12, 3)
    embedding = functional.merge(definition, params, stats)
    got = embedding(images, train=train)
    x = np.asarray(images, float)
    for i, stride in enumerate((2, 1)):
        x = residual.convolve(x, params["stem"][f"conv{i}"]["kernel"], stride)
        norm = params["stem"][f"norm{i}"], stats["stem"][f"norm{i}"]
        x = residual.relu(residual.batch_norm(x, *norm, train=train))
    projection = params["projection"]
    kernel, bias = np.asarray(projection["kernel"]), np.asarray(projection["bias"])
    want = np.stack([reference.convolve(image, kernel, bias, (2, 2)) for image in x])
    assert got.shape[1:3] == patch_grid((8, 12), (2, 2), None, (2, 1))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    moved = functional.stats_of(embedding)["stem"]["norm0"]["mean"]
    assert np.asarray(moved).any() == train


def test_packed_patches() -> None:
    """Cut and projected as the convolution does, behind each other and padded."""
    definition, params, _ = parts(lambda rngs: PatchEmbedding(3, 5, patch_size=(2, 3), rngs=rngs))
    embedding = functional.merge(definition, params)
    images = [np.asarray(normal(*shape, 3)) for shape in ((4, 6), (2, 9), (2, 3))]
    packed = PackedPatches.of(images, (2, 3), length=5)
    assert packed.pixels.shape == (3, 5, 18)
    np.testing.assert_array_equal(packed.grids, [(2, 2), (1, 3), (1, 1)])
    np.testing.assert_array_equal(packed.mask.sum(1), [4, 3, 1])
    got = embedding.packed(packed.pixels)
    for row, image in zip(got, images, strict=True):
        want = embedding(jnp.asarray(image[None]), train=False).reshape(-1, 5)
        np.testing.assert_allclose(row[: len(want)], want, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="an image of 2 x 2 patches does not fit in 3"):
        PackedPatches.of(images, (2, 3), length=3)
    with pytest.raises(ValueError, match="does not divide it"):
        PackedPatches.of(images, (4, 3), length=5)


def test_patch_grid_refuses_what_does_not_divide() -> None:
    assert patch_grid((384, 200), (14, 14), drop_remainder=True) == (27, 14)
    assert patch_grid((384, 256), (16, 16)) == (24, 16)
    assert patch_grid((16, 64), (16, 8), (16, 4)) == (1, 16)
    with pytest.raises(ValueError, match=r"image \(30, 32\) gives 30x32 pixels to patches of stride 16x16"):
        patch_grid((30, 32), (16, 16))


def test_token_embedding_and_tied_scores() -> None:
    definition, params, _ = parts(lambda rngs: TokenEmbedding(7, 4, rngs=rngs))
    table = np.asarray(params["embedding"])
    embedding = functional.merge(definition, params)
    tokens = jnp.asarray([[0, 6], [3, 3]])
    np.testing.assert_array_equal(embedding(tokens), table[np.asarray(tokens)])
    x = normal(2, 3, 4)
    np.testing.assert_allclose(embedding.attend(x), np.asarray(x) @ table.T, rtol=1e-5, atol=1e-6)


def test_tied_scores_of_bfloat16_are_float32() -> None:
    definition, params, _ = parts(lambda rngs: TokenEmbedding(7, 64, dtype="bfloat16", rngs=rngs))
    embedding, x = functional.merge(definition, params), (normal(3, 64) * 4).astype(jnp.bfloat16)
    assert embedding(jnp.arange(3)).dtype == jnp.bfloat16
    scores = embedding.attend(x)
    assert scores.dtype == jnp.float32
    table = np.asarray(params["embedding"].astype(jnp.bfloat16), float)
    np.testing.assert_allclose(scores, np.asarray(x, float) @ table.T, rtol=1e-4, atol=1e-4)


def test_combine() -> None:
    x, positions = normal(2, 3, 4), normal(3, 4, seed=1)
    np.testing.assert_array_equal(combine(x, positions, "add"), x + positions)
    both = combine(x.astype(jnp.bfloat16), positions, "concat")
    assert both.shape == (2, 3, 8) and both.dtype == jnp.bfloat16
    np.testing.assert_array_equal(both[1, :, 4:], positions.astype(jnp.bfloat16))


def test_initial_sizes() -> None:
    """Token vectors of unit length at width D: scaled by sqrt(D) their features have the size of a sinusoid's."""
    _, params, _ = initial(lambda rngs: TokenEmbedding(1000, 64, rngs=rngs))
    np.testing.assert_allclose(np.asarray(params["embedding"]).std(), 1 / 8, rtol=0.02)


def test_gradients() -> None:
    definition, params, stats = parts(
        lambda rngs: PatchEmbedding(2, 3, patch_size=(2, 2), patch_stride=(1, 1), rngs=rngs)
    )
    gradients_match(
        lambda p, x: functional.merge(definition, p, stats)(x, train=False), params, normal(1, 4, 4, 2)
    )
