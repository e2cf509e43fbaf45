"""RandAugment (Cubuk et al. 2020, "RandAugment: Practical automated data augmentation").

N operations drawn evenly from the paper's fourteen, all at one magnitude M of 0 to 10. Ranges are AutoAugment's
(Cubuk et al. 2019, table 6), which the paper reuses; a direction is drawn for every operation that has one.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from vitjax.data.resize import from_pil, to_pil

MAX_MAGNITUDE = 10
Operation = Callable[[Image.Image, float, float, int], Image.Image]


def rand_augment(
    image: UInt8[np.ndarray, "H W C"], layers: int, magnitude: float, fill: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W C"]:
    """`layers` operations at `magnitude`; pixels that a move uncovers become `fill`."""
    picture = to_pil(image)
    for _ in range(layers):
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        picture = operation(picture, magnitude / MAX_MAGNITUDE, sign, fill)
    return from_pil(picture)


def _identity(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return picture


def _auto_contrast(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageOps.autocontrast(picture)


def _equalize(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageOps.equalize(picture)


def _rotate(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return picture.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=_color(picture, fill))


def _solarize(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageOps.solarize(picture, round(256 * (1 - level)))


def _posterize(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageOps.posterize(picture, 8 - round(4 * level))


def _color_balance(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageEnhance.Color(picture).enhance(1 + 0.9 * level * sign)


def _contrast(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageEnhance.Contrast(picture).enhance(1 + 0.9 * level * sign)


def _brightness(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(1 + 0.9 * level * sign)


def _sharpness(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * level * sign)


def _shear_x(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return _affine(picture, (1.0, 0.3 * level * sign, 0.0, 0.0, 1.0, 0.0), fill)


def _shear_y(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return _affine(picture, (1.0, 0.0, 0.0, 0.3 * level * sign, 1.0, 0.0), fill)


def _translate_x(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    # 150 pixels of AutoAugment's 331-pixel images.
    return _affine(picture, (1.0, 0.0, picture.width * 150 / 331 * level * sign, 0.0, 1.0, 0.0), fill)


def _translate_y(picture: Image.Image, level: float, sign: float, fill: int) -> Image.Image:
    return _affine(picture, (1.0, 0.0, 0.0, 0.0, 1.0, picture.height * 150 / 331 * level * sign), fill)


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: int) -> Image.Image:
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_color(picture, fill),
    )


def _color(picture: Image.Image, fill: int) -> int | tuple[int, ...]:
    return fill if picture.mode == "L" else (fill,) * len(picture.getbands())


OPERATIONS: tuple[Operation, ...] = (
    _identity,
    _auto_contrast,
    _equalize,
    _rotate,
    _solarize,
    _color_balance,
    _posterize,
    _contrast,
    _brightness,
    _sharpness,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
