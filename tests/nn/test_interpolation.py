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


@pytest.mark.parametrize(("source", "target"), [(9, 13), (9, 21), (7, 7), (13, 5), (1, 5), (3, 1)])
def test_geometric_spreads_the_offsets(source, target) -> None:
    """Against a literal reading: knots at 0, 1, 1 + q, 1 + q + q^2, ..., the outermost at the end of the target."""
    matrix = resampling_matrix(source, target, "linear_geometric")
    np.testing.assert_allclose(matrix.sum(1), 1)
    middle = np.eye(source)[source // 2]
    np.testing.assert_allclose(matrix[target // 2], middle)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-9)
    if target > source > 1:
        np.testing.assert_allclose(matrix[-1], np.eye(source)[-1], atol=1e-4)
    if target > 3 and source > 3:
        np.testing.assert_allclose(matrix[target // 2 + 1], np.eye(source)[source // 2 + 1], atol=1e-9)
    if (source, target) == (9, 13):  # 1 + q + q^2 + q^3 = 6
        ratio = max(root.real for root in np.roots([1, 1, 1, -5]) if abs(root.imag) < 1e-9)
        knots = np.cumsum([0, 1, ratio, ratio**2, ratio**3])
        want = np.interp(np.arange(7), knots, [0, 1, 2, 3, 4])
        np.testing.assert_allclose(matrix[6:] @ np.arange(-4, 5), want, atol=1e-4)


def test_own_grid_is_untouched_and_gradients_flow() -> None:
    embedding = normal(12, 3)
    assert interpolate_grid(embedding, (3, 4), (3, 4), "bicubic") is embedding
    gradients_match(lambda table: interpolate_grid(table, (2, 3), (3, 5), "bicubic"), normal(6, 2))
