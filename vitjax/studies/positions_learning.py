"""What models with each kind of positions learn, and what is left of it on more tokens than they were trained on."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import PositionKind
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.sequences import Tagger, before, sequences
from vitjax.studies.lab.study import Spread
from vitjax.studies.lab.training import Examples, trained

BLOCKS = TransformerConfig(width=32, depth=2, num_heads=4, feed_forward_width=64)
VOCABULARY, PLACES = 16, 3  # of sequences; how far to look back in them
LENGTHS = (12, 24, 48)  # of sequences, in tokens: the first is that of training


@dataclass(frozen=True)
class OfImages:
    """Accuracy on held-out digits: by number of digits learned from, and after all of them on larger images."""

    by_count: dict[int, Spread]
    on_canvas: dict[int, Spread]
    enlarged: dict[int, Spread]


def of_images(
    kind: PositionKind,
    counts: tuple[int, ...],
    sizes: tuple[int, ...],
    seeds: tuple[int, ...],
    *,
    steps: int,
) -> OfImages:
    """A small ViT that learns to read from `counts` digits, and after the last of them sees larger images."""
    config = VisionTransformerConfig(BLOCKS, (8, 8), (2, 2), channels=1, num_classes=10, positions=kind)
    learned, held_out = digit_examples()
    models = {
        count: trained(config, learned, seeds, steps=steps, rate=1e-2, num_examples=count) for count in counts
    }
    return OfImages(
        {count: model.accuracy(held_out) for count, model in models.items()},
        {size: models[counts[-1]].accuracy(_on_canvas(held_out, size)) for size in sizes},
        {size: models[counts[-1]].accuracy(_enlarged(held_out, size)) for size in sizes},
    )


def of_sequences(kind: PositionKind, seeds: tuple[int, ...], *, steps: int) -> dict[int, Spread]:
    """Accuracy by length of a small text encoder that learns to name the token some places before.

    It is trained at the first of the lengths; learned positions are there for the last.
    """
    config = TextEncoderConfig(BLOCKS, VOCABULARY, LENGTHS[-1], positions=kind)
    back = [before(PLACES, circle=False)]
    learned, _ = sequences(back, vocabulary=VOCABULARY, length=LENGTHS[0])
    model = trained(lambda rngs: Tagger(config, rngs=rngs), learned, seeds, steps=steps, rate=5e-3)
    return {
        length: model.accuracy(sequences(back, vocabulary=VOCABULARY, length=length, count=0)[1])
        for length in LENGTHS
    }


def _on_canvas(digits: Examples, size: int) -> Examples:
    """Digits as large as they were in the middle of a larger image."""
    margin = (size - digits.inputs.shape[1]) // 2
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return Examples(np.pad(digits.inputs, around, constant_values=-1), digits.answers)


def _enlarged(digits: Examples, size: int) -> Examples:
    """Digits that fill a larger image."""

    def enlarged(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))

    return Examples(np.stack([enlarged(image[..., 0]) for image in digits.inputs])[..., None], digits.answers)
