"""Short strings of handwritten digits, the smallest image-to-text task: three digits with random gaps."""

from dataclasses import dataclass
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import Encoded, EncoderDecoderConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.vit import VisionTransformer
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PackedPatches
from vitjax.studies.lab.training import Examples

DIGITS, SIDE, FREE, PATCH = 3, 8, 8, 2  # digits a string; pixels of a digit, left over, of a patch's width
WIDTH = DIGITS * SIDE + FREE
BLACK = -1.0
BEGIN = 10  # the token before the first digit
VOCABULARY = BEGIN + 1


@dataclass(frozen=True)
class Strings:
    """Images of strings, the digits in them, and which columns belong to the box of each."""

    images: Float[np.ndarray, "N 8 W 1"]
    digits: Int[np.ndarray, "N T"]
    boxes: Bool[np.ndarray, "N T W"]

    @property
    def examples(self) -> Examples:
        """What a `StringReader` learns from."""
        patches = PackedPatches.of(list(self.images), (SIDE, PATCH), length=WIDTH // PATCH)
        return Examples((patches, self.digits), self.digits)


def strings(examples: Examples, count: int, rng: np.random.Generator) -> Strings:
    """Random digits side by side, with what is left of the width in random gaps."""
    chosen = rng.integers(0, len(examples.answers), (count, DIGITS))
    left = np.sort(rng.integers(0, FREE + 1, (count, DIGITS)), axis=1) + SIDE * np.arange(DIGITS)
    column = np.arange(WIDTH) - left[..., None]
    boxes = (column >= 0) & (column < SIDE)  # [N, T, W]
    images = np.full((count, SIDE, WIDTH, 1), BLACK, np.float32)
    for place in range(DIGITS):
        row, at = np.nonzero(boxes[:, place])
        images[row, :, at] = examples.inputs[chosen[row, place], :, column[row, place, at]]
    return Strings(images, examples.answers[chosen], boxes)


def string_transformer(
    encoder: TransformerConfig, decoder: TransformerConfig, **options: Any
) -> EncoderDecoderConfig:
    """Sees the image of a string as columns of two pixels and writes its digits; `options` are the decoder's."""
    columns = VisionTransformerConfig(encoder, (SIDE, WIDTH), (SIDE, PATCH), channels=1, pooling="none")
    return EncoderDecoderConfig(columns, DecoderConfig(decoder, VOCABULARY, DIGITS, **options))


def prompted(digits: Int[Array | np.ndarray, "N T"]) -> Int[Array, "N U"]:
    """The digits behind the token that they begin with."""
    return jnp.pad(jnp.asarray(digits), ((0, 0), (1, 0)), constant_values=BEGIN)


class StringReader(nnx.Module):
    """An image-to-text model that is given patches and the digits to write, and names each from those before it.

    Patches are cut already: their projection is then no convolution, whose gradient is slow in a loop on CPU.
    """

    def __init__(self, config: EncoderDecoderConfig | ShowAttendTellConfig, *, rngs: nnx.Rngs):
        self.model = config.build(rngs=rngs)

    def __call__(
        self, given: tuple[PackedPatches, Int[Array, "B T"]], *, train: bool
    ) -> Float[Array, "B T V"]:
        patches, digits = given
        encoder = cast(VisionTransformer, self.model.encoder)  # which alone takes patches
        tokens = encoder.features(patches, train=train).tokens
        return self.model.decode(Encoded(tokens, None), prompted(digits)[:, :-1], train=train).logits
