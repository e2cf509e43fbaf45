"""A reader of short digit strings: where its decoder looks, and what it needs."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vitjax.analysis.attention_maps import cross_attention_maps
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.strings import BEGIN, BLACK, DIGITS, PATCH, SIDE, WIDTH, Strings, strings
from vitjax.studies.lab.training import fresh, train

CHANCE = SIDE / WIDTH  # share of the image that a digit's box covers
OFFSETS = range(-SIDE, 2 * SIDE)  # pixels from the left edge of a digit's box
HELD_OUT = 512
BATCH, RATE = 32, 4e-3


@dataclass(frozen=True)
class Looks:
    """Of a reader, with each seed; T are the digits of a string in the order they are written.

    Attributes:
      right: share of held-out digits that are right.
      inside: attention inside the box of the digit that is being written, of each layer and head.
      looked_at: share of digits whose own box, of the boxes, gets the most attention.
      needed: share of digits whose logit falls most, of all boxes blacked out, for their own.
      around: attention a pixel column gets, by `OFFSETS`.
    """

    right: Float[np.ndarray, "..."]
    inside: Float[np.ndarray, "... L H T"]
    looked_at: Float[np.ndarray, "... T"]
    needed: Float[np.ndarray, "... T"]
    around: Float[np.ndarray, "... offsets"]


def reader(width: int, encoder_depth: int, decoder_depth: int) -> EncoderDecoderConfig:
    """Patches are columns of two pixels."""

    def transformer(depth: int) -> TransformerConfig:
        return TransformerConfig(width, depth, 4, 2 * width)

    encoder = VisionTransformerConfig(
        transformer(encoder_depth),
        image_size=(SIDE, WIDTH),
        patch_size=(SIDE, PATCH),
        channels=1,
        pooling="none",
    )
    return EncoderDecoderConfig(encoder, DecoderConfig(transformer(decoder_depth), BEGIN + 1, DIGITS))


def looks(
    config: EncoderDecoderConfig, seeds: tuple[int, ...], *, steps: int, stages: int
) -> dict[int, Looks]:
    """Where readers look at held-out strings and what they need of them, by the steps of training they have had."""
    learnt, tested = digit_examples()
    held_out = strings(tested, HELD_OUT, np.random.default_rng(0))
    definition, start, stats = fresh(config, seeds)

    def loss_of(model: Any, given: tuple[Array, Array]) -> Array:
        images, digits = given
        logits = model(images, _prompted(digits)[:, :-1], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, digits).mean()

    @jax.jit
    @jax.vmap
    def run(params: Tree, stats: Tree, batches: tuple[Array, Array]) -> Tree:
        return train(definition, params, stats, loss_of, batches, rate=RATE, stages=stages)[0]

    drawn = [strings(learnt, steps * BATCH, np.random.default_rng(seed)) for seed in seeds]
    batches = (
        np.stack([each.reshape(steps, BATCH, *each.shape[1:]) for each in kind])
        for kind in zip(*((one.images, one.digits) for one in drawn), strict=True)
    )
    trained = jax.device_get(run(start, stats, tuple(batches)))  # [seeds, stages, ...]

    found = {}
    for stage in range(1 + stages):
        each = []
        for seed in range(len(seeds)):
            at = (seed, stage - 1) if stage else (seed,)
            params = jax.tree.map(lambda leaf, at=at: leaf[at], trained if stage else start)
            each.append(_looks(Model(config, params, {}, None, None, GenerationConfig()), held_out))
        fields = Looks.__dataclass_fields__
        found[stage * steps // stages] = Looks(
            *(np.stack([getattr(one, name) for one in each]) for name in fields)
        )
    return found


def _looks(model: Model, held_out: Strings) -> Looks:
    """Of one reader."""
    maps = np.asarray(cross_attention_maps(model, held_out.images, _prompted(held_out.digits)).weights)
    columns = np.repeat(maps[..., 0, :] / PATCH, PATCH, axis=-1)  # [N, T, L, H, W], even within a patch
    boxes = np.einsum("ntlhw,nkw->nlhtk", columns, held_out.boxes)
    offset = np.arange(WIDTH) - held_out.boxes.argmax(axis=-1)[..., None]
    mean = columns.mean(axis=(2, 3))
    right, needed = _needs(model, held_out)
    return Looks(
        right,
        np.diagonal(boxes, axis1=-2, axis2=-1).mean(axis=0),
        (boxes.mean(axis=(1, 2)).argmax(axis=-1) == np.arange(DIGITS)).mean(axis=0),
        needed,
        np.array([mean[offset == each].mean() for each in OFFSETS]),
    )


def _needs(model: Model, held_out: Strings) -> tuple[Float[np.ndarray, ""], Float[np.ndarray, " T"]]:
    """`right` and `needed` of `Looks`."""
    blacked = [
        np.where(held_out.boxes[:, place, None, :, None], np.float32(BLACK), held_out.images)
        for place in range(DIGITS)
    ]
    prompt = np.tile(np.asarray(_prompted(held_out.digits))[:, :-1], (1 + DIGITS, 1))
    logits = np.asarray(model.logits(np.concatenate([held_out.images, *blacked]), prompt))
    logits = logits.reshape(1 + DIGITS, HELD_OUT, DIGITS, -1)
    right = np.asarray((logits[0].argmax(-1) == held_out.digits).mean())
    own = np.take_along_axis(logits, held_out.digits[None, ..., None], axis=-1)[..., 0]
    hurts = (own[0] - own[1:]).argmax(axis=0)  # [N, T]
    return right, (hurts == np.arange(DIGITS)).mean(axis=0)


def _prompted(digits: Any) -> Int[Array, "N U"]:
    return jnp.pad(digits, ((0, 0), (1, 0)), constant_values=BEGIN)
