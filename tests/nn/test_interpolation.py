import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.nn import reference
from tests.nn.trees import gradients_match, normal
from vitjax.nn.interpolation import interpolate_grid, resampling_matrix

GRIDS = [
    ((4, 4), (8, 8)),
    ((4, 4), (6, 9)),
    ((3, 5), (5, 3)),
    ((7, 7), (4, 4)),
    ((1, 6), (1, 9)),
    ((9, 14), (3, 20)),
]


@pytest.mark.parametrize(("source", "target"), GRIDS)
def test_against_other_implementations(source, target) -> None:
    embedding = np.asarray(normal(source[0] * source[1], 2))
    image = embedding.reshape(*source, 2)

    def pillow(filter):
        size = target[::-1]
        return np.stack([Image.fromarray(image[..., i]).resize(size, filter) for i in (0, 1)], axis=-1)

    wanted = {
        "bicubic": reference.resize_cubic(image, *target),
        "bicubic_antialias": pillow(Image.Resampling.BICUBIC),
        "bilinear_antialias": pillow(Image.Resampling.BILINEAR),
    }
    if min(source) > 1:
        factors = (target[0] / source[0], target[1] / source[1], 1)
        wanted["linear_corners"] = ndimage.zoom(image, factors, order=1)
    for interpolation, want in wanted.items():
        got = interpolate_grid(jnp.asarray(embedding), source, target, interpolation)
        np.testing.assert_allclose(got.reshape(*target, 2), want, atol=2e-6, err_msg=interpolation)


def test_bilinear_by_hand() -> None:
    np.testing.assert_allclose(
        resampling_matrix(2, 4, "bilinear"), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    )
    np.testing.assert_allclose(resampling_matrix(4, 2, "bilinear"), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_own_grid_is_untouched_and_gradients_flow() -> None:
    embedding = normal(12, 3)
    assert interpolate_grid(embedding, (3, 4), (3, 4), "bicubic") is embedding
    gradients_match(lambda table: interpolate_grid(table, (2, 3), (3, 5), "bicubic"), normal(6, 2))
