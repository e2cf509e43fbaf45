"""What to read and how to prepare it: plain frozen dataclasses, standard library only."""

from dataclasses import dataclass, field
from typing import Literal

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class Augment:
    """Random changes to training images; everything off by default.

    Applied in this order: crop, flip, `three_augment`, color jitter, RandAugment, affine, intensity.
    """

    crop: Literal["none", "random_resized"] = "none"
    """`random_resized`: Inception-style crop (Szegedy et al. 2015) instead of the plain resize."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area a random crop keeps, (smallest, largest)."""
    flip: bool = False
    """Mirror left-right, every second image."""
    three_augment: bool = False
    """One of grayscale, solarize, Gaussian blur (DeiT III, Touvron et al. 2022)."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation are each scaled by a factor in 1 +- this."""
    rand_augment_layers: int = 0
    """RandAugment's N: operations applied one after the other (Cubuk et al. 2020)."""
    rand_augment_magnitude: float = 9.0
    """RandAugment's M, on the paper's scale of 0 to 10."""
    rotation: float = 0.0
    """Degrees, drawn from +- this."""
    shear: float = 0.0
    """Horizontal shear, drawn from +- this (0.1 moves the top of a square by 5 % of its side)."""
    scale: float = 0.0
    """Height and width are each scaled by a factor in 1 +- this."""
    shift: float = 0.0
    """Pixels, drawn from +- this for each direction."""
    intensity: float = 0.0
    """Distance from the fill colour is scaled by a factor in 1 +- this (stroke strength)."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"augment.crop_area is {self.crop_area}: expected 0 < smallest <= largest <= 1")
        if not 0 <= self.rand_augment_magnitude <= 10:
            magnitude = self.rand_augment_magnitude
            raise ValueError(
                f"augment.rand_augment_magnitude is {magnitude}: expected 0 to 10, the paper's scale"
            )
        for name in ("color_jitter", "scale", "intensity"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"augment.{name} is {getattr(self, name)}: expected 0 <= {name} < 1")


@dataclass(frozen=True)
class DataConfig:
    """A dataset and its way into batches. `name` is one of vitjax's own or any prepared TFDS dataset."""

    name: str
    """`digits`, `digit_strings`, `text_lines`, `reverse_words`, or a TFDS name such as `imagenet2012`."""
    train_split: str = "train"
    """TFDS split, slices allowed: `train[:95%]`."""
    eval_split: str = "test"
    """TFDS split, slices allowed."""
    data_dir: str | None = None
    """Where prepared datasets lie; None is TFDS's own place (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`)."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width the model takes, in pixels."""
    channels: int = 3
    """1 (grey) or 3 (RGB)."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels scaled to 0..1: one value for all channels, or one a channel."""
    std: tuple[float, ...] = (0.5,)
    """Divides what is left."""
    resize: Literal["stretch", "crop", "squash", "fit"] = "stretch"
    """How images are brought to `image_size`: ignore the aspect; keep it and cut the middle out; ignore it and cut the
    middle out; keep it and pad with `fill`."""
    crop_fraction: float = 0.875
    """Under `crop` and `squash`: the part of the resized image's sides that is kept (timm's crop_pct)."""
    interpolation: Interpolation = "bilinear"
    """Resampling of every resize: Pillow's filters, antialiased but for `nearest`."""
    fill: int = 0
    """Grey level of whatever padding or a rotation uncovers: the background's."""
    max_length: int = 32
    """Tokens of a text, begin and end included (T); also the length of a source text (S)."""
    augment: Augment = field(default_factory=Augment)
    """Random changes to training images."""
    curriculum_steps: int = 0
    """Over this many first steps, texts are drawn from the shortest ones only, more and more of them: a decoder finds
    the alignment on short texts first. 0 is off."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process (a worker costs seconds to start)."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is {self.channels}: expected 1 (grey) or 3 (RGB)")
        if min(self.image_size) < 1:
            raise ValueError(
                f"data.image_size is {self.image_size}: expected (height, width) of at least 1 pixel"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                found = len(getattr(self, name))
                raise ValueError(f"data.{name} has {found} values: expected 1, or {self.channels} (channels)")
        if min(self.std) <= 0:
            raise ValueError(f"data.std is {self.std}: expected values above 0")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"data.crop_fraction is {self.crop_fraction}: expected 0 < crop_fraction <= 1")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"data.fill is {self.fill}: expected a grey level from 0 to 255")
        if self.max_length < 3:
            raise ValueError(
                f"data.max_length is {self.max_length}: expected at least 3 (begin, one character, end)"
            )
        for name in ("curriculum_steps", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}: expected 0 or more")
