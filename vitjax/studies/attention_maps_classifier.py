"""A classifier of digits: what attention says of its patches, and what covering them up says."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vitjax.analysis.attention_maps import attention_maps
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.training import trained

SIDE, GRID = 8, 4  # pixels and patches, each way
PATCHES = GRID * GRID
# The patch that each pixel lies in [8, 8, 1]:
PLACE = np.arange(PATCHES).reshape(GRID, GRID).repeat(SIDE // GRID, 0).repeat(SIDE // GRID, 1)[..., None]
FILLS = ("the mean digit", "black")
LAST, ROLLOUT, GRADIENT, IMAGE, OTHER, RANDOM = MAPS = (
    "last layer",
    "rollout",
    "gradient-weighted rollout",
    "image alone",
    "occlusion the other way",
    "random",
)


class Agreement(NamedTuple):
    """Of one map with occlusion, at every seed.

    Attributes:
      correlation: for each way to fill a patch (`FILLS`), the mean over images of the rank correlation between the map
        and how much the class's logit falls when a patch is covered.
      left: mean probability of the class when so many patches, the map's largest first, are the mean digit's.
    """

    correlation: Float[np.ndarray, "... fills"]
    left: Float[np.ndarray, "... k"]


def agreements(
    seeds: tuple[int, ...], *, width: int, depth: int, steps: int, images: int
) -> tuple[dict[str, Agreement], Float[np.ndarray, " seeds"]]:
    """How each map of a digit agrees with occlusion, on held-out images; and the classifiers' accuracy."""
    config = VisionTransformerConfig(
        TransformerConfig(width, depth, 4, 2 * width),
        image_size=(SIDE, SIDE),
        patch_size=(SIDE // GRID, SIDE // GRID),
        channels=1,
        num_classes=10,
        class_token=True,
        pooling="cls",
    )
    learnt, tested = digit_examples()
    classifiers = trained(config, learnt, seeds, steps=steps)
    fills = learnt.inputs.mean(axis=0), np.full((SIDE, SIDE, 1), -1.0)
    shown = tested.inputs[:images]
    learnt_params = jax.device_get(classifiers.params)
    found: list[dict[str, Agreement]] = []
    for place, seed in enumerate(seeds):
        params = jax.tree.map(lambda leaf, place=place: leaf[place], learnt_params)
        model = Model(config, params, {}, None, None, GenerationConfig())
        found.append(_agreements(model, shown, fills, np.random.default_rng(seed)))
    over_seeds = {
        name: Agreement(*(np.stack(each) for each in zip(*(one[name] for one in found), strict=True)))
        for name in MAPS
    }
    return over_seeds, np.array(classifiers.accuracy(tested).values)


def _agreements(
    model: Model, shown: np.ndarray, fills: tuple[np.ndarray, ...], rng: np.random.Generator
) -> dict[str, Agreement]:
    """Of one classifier."""
    rollout = attention_maps(model, shown)
    gradient = attention_maps(model, shown, method="gradient_rollout")
    said = np.asarray(gradient.target)

    def logits(gone: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "B n classes"]:
        """Of each image with `values` put in n ways where it is `gone` [B or 1, n, 8, 8, 1]."""
        covered = np.where(gone, values, shown[:, None]).astype(np.float32)
        return np.asarray(model.logits(covered.reshape(-1, SIDE, SIDE, 1))).reshape(*covered.shape[:2], -1)

    def of_class(values: Float[np.ndarray, "B n classes"]) -> Float[np.ndarray, "B n"]:
        return np.take_along_axis(values, said[:, None, None], axis=-1)[..., 0]

    patches = np.arange(-1, PATCHES)[:, None, None, None] == PLACE  # the first covers nothing
    single = [of_class(logits(patches[None], values)) for values in fills]
    falls = [alone[:, :1] - alone[:, 1:] for alone in single]
    # How far each patch is from what replaces it, over its pixels; no model is asked:
    changed = [(np.abs(shown - values)[:, None] * patches[1:]).sum(axis=(2, 3, 4)) for values in fills]
    maps = {
        LAST: rollout.weights[:, -1].mean(axis=1),
        ROLLOUT: rollout.relevance,
        GRADIENT: gradient.relevance,
        RANDOM: rng.random((len(shown), PATCHES)),
    }
    by_fill = {
        name: [np.asarray(each).reshape(len(shown), PATCHES)] * len(fills) for name, each in maps.items()
    }
    by_fill |= {IMAGE: changed, OTHER: falls[::-1]}

    found = {}
    for name in MAPS:
        ahead = (-by_fill[name][0]).argsort(axis=1).argsort(axis=1)[:, PLACE]  # [B, 8, 8, 1]
        left = logits(ahead[:, None] < np.arange(PATCHES + 1)[:, None, None, None], fills[0])
        left = np.exp(left) / np.exp(left).sum(axis=-1, keepdims=True)
        found[name] = Agreement(
            np.array([_rank_correlation(*pair) for pair in zip(by_fill[name], falls, strict=True)]),
            of_class(left).mean(axis=0),
        )
    return found


def _rank_correlation(one: Float[np.ndarray, "B n"], other: Float[np.ndarray, "B n"]) -> float:
    """Spearman's, equal numbers sharing their ranks, mean over rows; a row without any difference counts as 0."""

    def ranks(x: np.ndarray) -> np.ndarray:
        below, equal = ((compare(x[:, :, None], x[:, None])).sum(-1) for compare in (np.greater, np.equal))
        return below + equal / 2 - x.shape[1] / 2

    first, second = ranks(one), ranks(other)
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return float(((first * second).sum(-1) / np.maximum(scale, 1e-9)).mean())
