"""Random changes to training images; every draw comes from the numpy Generator handed in."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitjax.data.config import Augment, DataConfig
from vitjax.data.preprocess import Preprocess
from vitjax.data.randaugment import rand_augment
from vitjax.data.resize import from_pil, resize, to_channels, to_pil

CROP_ASPECT = (3 / 4, 4 / 3)


def augment_image(
    image: UInt8[np.ndarray, "h w c"], config: DataConfig, preprocess: Preprocess, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W C"]:
    """A decoded image, randomly changed as `config.augment` says, in the size and channels of `config`.

    `preprocess` is `Preprocess.of(config)`, made once by whoever augments many images.
    """
    augment = config.augment
    if augment.crop == "random_resized":
        image = to_channels(image, config.channels)
        image = random_resized_crop(image, config.image_size, augment.crop_area, config.interpolation, rng)
    else:
        image = preprocess(image)
    if augment.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if augment.three_augment:
        image = three_augment(image, rng)
    if augment.color_jitter:
        image = color_jitter(image, augment.color_jitter, rng)
    if augment.rand_augment_layers:
        image = rand_augment(
            image, augment.rand_augment_layers, augment.rand_augment_magnitude, config.fill, rng
        )
    if augment.rotation or augment.shear or augment.scale or augment.shift:
        image = random_affine(image, augment, config.fill, rng)
    if augment.intensity:
        factor = 1 + rng.uniform(-augment.intensity, augment.intensity)
        change = (image.astype(np.float32) - config.fill) * factor + config.fill
        image = np.clip(np.rint(change), 0, 255).astype(np.uint8)
    return image


def random_affine(
    image: UInt8[np.ndarray, "H W C"], augment: Augment, fill: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W C"]:
    """Rotate, shear, scale and shift about the middle, each drawn evenly from +- its bound; bicubic."""
    draws = rng.uniform(-1, 1, 6).tolist()
    angle, shear = math.radians(draws[0] * augment.rotation), draws[1] * augment.shear
    scale_y, scale_x = 1 + draws[2] * augment.scale, 1 + draws[3] * augment.scale
    shift_y, shift_x = draws[4] * augment.shift, draws[5] * augment.shift
    height, width, channels = image.shape
    # Output = rotation @ [[scale_x, shear], [0, scale_y]] @ input; Pillow asks for the inverse, written out here.
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = (cos + sin * shear / scale_y) / scale_x, (sin - cos * shear / scale_y) / scale_x
    d, e = -sin / scale_y, cos / scale_y
    middle_x, middle_y = width / 2, height / 2
    c = middle_x - a * (middle_x + shift_x) - b * (middle_y + shift_y)
    f = middle_y - d * (middle_x + shift_x) - e * (middle_y + shift_y)
    return from_pil(
        to_pil(image).transform(
            (width, height),
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            resample=Image.Resampling.BICUBIC,
            fillcolor=fill if channels == 1 else (fill,) * channels,
        )
    )


def random_resized_crop(
    image: UInt8[np.ndarray, "h w C"],
    size: tuple[int, int],
    area: tuple[float, float],
    interpolation: str,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "H W C"]:
    """A box of random area and aspect, resized: the Inception crop (Szegedy et al. 2015), as in torchvision.

    After ten boxes that do not fit, the largest middle box within the aspect bounds is taken.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        target = rng.uniform(*area) * height * width
        aspect = math.exp(rng.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        box_width, box_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            break
    else:
        box_width = max(1, min(width, round(height * CROP_ASPECT[1])))
        box_height = max(1, min(height, round(width / CROP_ASPECT[0])))
        top, left = (height - box_height) // 2, (width - box_width) // 2
    return resize(image[top : top + box_height, left : left + box_width], size, interpolation)


def three_augment(image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
    """One of grayscale, solarize, Gaussian blur with radius 0.1 to 2 (DeiT III, Touvron et al. 2022)."""
    picture = to_pil(image)
    choice = rng.integers(3)
    if choice == 0:
        return from_pil(picture.convert("L").convert(picture.mode))
    if choice == 1:
        return from_pil(ImageOps.solarize(picture, 128))
    return from_pil(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0))))


def color_jitter(
    image: UInt8[np.ndarray, "H W C"], strength: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W C"]:
    """Brightness, contrast and saturation, in random order, each by a factor in 1 +- strength."""
    picture = to_pil(image)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for index in rng.permutation(len(enhancers)):
        picture = enhancers[index](picture).enhance(1 + rng.uniform(-strength, strength))
    return from_pil(picture)
