import numpy as np
import pytest
from PIL import Image

from vitjax.analysis.pictures import DPI, draw_attention


def drawn(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"), np.int32)


def spot(row: int, column: int, size=(4, 6)) -> np.ndarray:
    weights = np.full(size, 0.01, np.float32)
    weights[row, column] = 0.7
    return weights


def colourful(pixels: np.ndarray) -> np.ndarray:
    """Where a pixel is no grey (the ink is nearly one)."""
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 60


def test_the_heat_is_where_the_weight_is(tmp_path):
    image = np.full((40, 60, 1), 128, np.uint8)
    places = [(0, 0), (3, 5), (0, 5)]
    maps = np.stack([spot(*place) for place in places] + [spot(1, 1)])  # the last one is filler
    draw_attention(tmp_path / "a.png", image, ["a", "b", ""], maps)
    pixels = drawn(tmp_path / "a.png")
    # grey image and three panels in two columns: find the centre of the colour in each quarter
    height, width = (side // 2 for side in pixels.shape[:2])
    centres = []
    for top, left in ((0, width), (height, 0), (height, width)):
        rows, columns = np.nonzero(colourful(pixels[top : top + height, left : left + width]))
        centres.append((rows.mean() > height / 2, columns.mean() > width / 2))
    assert centres == [(False, False), (True, True), (False, True)]
    assert not colourful(pixels[:height, :width]).any()


@pytest.mark.parametrize(
    ("size", "tokens"), [((224, 224), 64), ((16, 64), 6), ((1, 3000), 30), ((2000, 50), 30), ((40, 40), 0)]
)
def test_any_shape_and_length_stays_readable(tmp_path, size, tokens):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    maps = np.ones((tokens, 7, 7), np.float32)
    draw_attention(tmp_path / "a.png", image, ["word "] * tokens, maps)
    height, width, _ = drawn(tmp_path / "a.png").shape
    assert width <= 1700
    # nothing but panels and their labels: no sea of white
    assert height * width <= 2.5 * (tokens + 1) * 160 * 160 + 100 * DPI * max(size[1] > size[0], 1) * 4
    assert 0.3 <= width / height <= 12


def test_odd_pieces(tmp_path, recwarn):
    pieces = ["$x", " ", "\n", "\u4e2d", "antidisestablishmentarianism" * 9, "\\frac{", ""]
    draw_attention(tmp_path / "a.png", np.zeros((9, 9, 3), np.uint8), pieces, np.zeros((7, 2, 2), np.float32))
    assert not recwarn.list
    drawn(tmp_path / "a.png")


def test_no_place_for_it(tmp_path):
    with pytest.raises(OSError, match="no"):
        draw_attention(
            tmp_path / "no" / "a.png", np.zeros((9, 9, 3), np.uint8), ["a"], np.ones((1, 2, 2), np.float32)
        )
