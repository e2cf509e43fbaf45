"""Where a model looks: attention as maps over the image, per layer and head, and what they add up to.

    maps = attention_maps(vitjax.load("runs/digits_vit"), images, method="gradient_rollout")
    maps.weights      # [B, L, H, rows, columns]
    maps.relevance    # [B, rows, columns]
    maps.save("where")

    out = model.generate(images)
    maps = cross_attention_maps(model, images, out.tokens[:, 0])   # [B, U, L, H, rows, columns]
    maps.save("where", pieces=[row[0] for row in out.pieces()])

Each is one compiled program. Maps of models that merge tokens are of the whole grid.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from vitjax.analysis.pictures import draw_attention, draw_maps
from vitjax.models.config import ModelConfig, image_encoder
from vitjax.models.vit import Features, Nudges, VisionTransformer, VisionTransformerConfig
from vitjax.nn.embeddings import PackedPatches
from vitjax.nn.functional import Tree, merge

if TYPE_CHECKING:
    import vitjax.model

Method = Literal["raw", "rollout", "gradient_rollout"]


@struct.dataclass
class AttentionMaps:
    """Where an image encoder looks.

    Attributes:
      weights: of each layer and head: how the class token looks at the patches, or the patches in the mean where no
        class token is read. With attention pooling one more layer is the pooling's.
      relevance: what `method` makes of them: non-negative, of no common scale.
      images: normalised, as the model read them.
      logits: of a classifier, else None.
      target: the class that `gradient_rollout` asked for, else None.
    """

    weights: Float[Array, "B L H rows columns"]
    relevance: Float[Array, "B rows columns"]
    images: Float[Array, "B height width ch"]
    logits: Float[Array, "B classes"] | None
    target: Int[Array, " B"] | None

    def save(self, directory: str | Path, images: Iterable[UInt8[np.ndarray, "_ _ _"]] | None = None) -> None:
        """Write `attention_maps.npz`, and for image b `b.png` (relevance, and each layer) and `b_heads.png`.

        Args:
          images: what to draw over, of any size; None: what the model read.
        """
        arrays = {name: getattr(self, name) for name in ("weights", "relevance", "logits", "target")}
        weights, relevance = np.asarray(self.weights), np.asarray(self.relevance)
        layers, heads = weights.shape[1:3]
        each_layer = [f"L{layer + 1}" for layer in range(layers)]
        each_head = [f"{layer} H{head + 1}" for layer in each_layer for head in range(heads)]
        of_class = "" if self.target is None else [f" of class {target}" for target in self.target.tolist()]
        folder = _written(directory, {name: array for name, array in arrays.items() if array is not None})
        for row, picture in enumerate(_pictures(self.images) if images is None else images):
            maps = np.concatenate([relevance[row][None], weights[row].mean(axis=1)])
            title = f"relevance{of_class[row] if of_class else ''}, attention of each layer"
            draw_maps(folder / f"{row}.png", picture, maps, ["relevance", *each_layer], title=title)
            maps = weights[row].reshape(-1, *weights.shape[3:])
            title = "attention of each layer and head"
            draw_maps(folder / f"{row}_heads.png", picture, maps, each_head, title=title)


@struct.dataclass
class CrossAttentionMaps:
    """Where a decoder looks.

    Attributes:
      weights: of each layer and head, entry u when token u + 1 was written. They are shares of all that the decoder
        looks at, so class tokens and registers of the encoder may have a part of it.
      tokens: with the decoder prompt; T = U + 1.
      images: normalised, as the model read them.
    """

    weights: Float[Array, "B U L H rows columns"]
    tokens: Int[Array, "B T"]
    images: Float[Array, "B height width ch"]

    @property
    def mean(self) -> Float[Array, "B U rows columns"]:
        """Over layers and heads."""
        return self.weights.mean(axis=(2, 3))

    def save(
        self,
        directory: str | Path,
        images: Iterable[UInt8[np.ndarray, "_ _ _"]] | None = None,
        pieces: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Write `cross_attention_maps.npz`, and for image b `b.png`: the mean for each token.

        Args:
          images: what to draw over, of any size; None: what the model read.
          pieces: what each token says, see `Generated.pieces`; None: the tokens' numbers.
        """
        folder = _written(directory, {"weights": self.weights, "tokens": self.tokens}, "cross_attention_maps")
        said = [list(map(str, row)) for row in self.tokens[:, 1:].tolist()] if pieces is None else pieces
        pictures, maps = _pictures(self.images) if images is None else images, np.asarray(self.mean)
        for row, (picture, words) in enumerate(zip(pictures, said, strict=True)):
            draw_attention(folder / f"{row}.png", picture, words, maps[row])


def attention_maps(
    model: "vitjax.model.Model", images: Any, *, method: Method = "rollout", target: Any = None
) -> AttentionMaps:
    """Where an image classifier, or the image encoder of a model that writes, looks.

    Args:
      model: a `vitjax.Model`.
      images: as `Model.logits` takes them, of one size.
      method: what to make of the layers. `raw`: the last layer, mean over heads. `rollout`: each layer's mean over
        heads, averaged with the identity for the residual connection, multiplied over layers (Abnar & Zuidema 2020).
        `gradient_rollout`: R += E R from layer to layer, starting at the identity, where E is the mean over heads of
        weight times gradient of the class's logit by the weight, negative ones left out (Chefer et al. 2021, Generic
        Attention-model Explainability, eq. 5 and 6); where patches are averaged, less what each is to itself.
      target: for `gradient_rollout`, the class: one, or one for each image; None: what the model says.

    Raises:
      ValueError: the encoder has no attention, or the method nothing to start from.
    """
    encoder = attentive_encoder(model.config)
    if method not in get_args(Method):
        raise ValueError(f"no method {method!r}: there are {', '.join(get_args(Method))}")
    if method == "gradient_rollout" and (model.writes or not encoder.num_classes):
        raise ValueError(
            "gradient_rollout asks what speaks for a class, and this model names none: use rollout"
        )
    if target is not None and method != "gradient_rollout":
        raise ValueError(f"method {method!r} is the same for every class: target is for gradient_rollout")
    images = of_one_size(model.prepare(images))
    if target is not None:
        target = np.broadcast_to(np.asarray(target, np.int32), images.shape[:1])
        if target.min() < 0 or target.max() >= encoder.num_classes:
            raise ValueError(f"target {target}: the classes are 0 to {encoder.num_classes - 1}")
    return _maps(model.definition, model.params, model.stats, images, target, method=method)


def cross_attention_maps(
    model: "vitjax.model.Model", images: Any, tokens: Any, *, token_mask: Any = None
) -> CrossAttentionMaps:
    """Where the decoder of an image-to-text model looks when it writes given tokens.

    Args:
      model: a `vitjax.Model`; its encoder may be any, a ResNet too.
      images: as `Model.generate` takes them, of one size.
      tokens: int [B, T] with the decoder prompt, such as `out.tokens[:, 0]` of `generate`.
      token_mask: bool [B, T], False where a prompt is padded on the left.

    Raises:
      ValueError: the model writes nothing, or reads no images.
    """
    if not model.writes:
        raise ValueError("this model names classes and has no decoder: use attention_maps")
    image_encoder(model.config)
    images = of_one_size(model.prepare(images))
    tokens = tokens if isinstance(tokens, jax.Array) else np.asarray(tokens, np.int32)
    return _cross(model.definition, model.params, model.stats, images, tokens, token_mask)


def attentive_encoder(config: ModelConfig) -> VisionTransformerConfig:
    """The part of a model that looks at an image by attention; ValueError if there is none."""
    encoder = image_encoder(config)
    if not isinstance(encoder, VisionTransformerConfig):
        raise ValueError(
            "a ResNet has no attention to map"
            + ("" if encoder is config else ": its decoder has, see cross_attention_maps")
        )
    return encoder


@partial(jax.jit, static_argnums=0, static_argnames="method")
def _maps(
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    images: Float[Array, "B height width ch"],
    target: Int[Array, " B"] | None,
    *,
    method: Method,
) -> AttentionMaps:
    def encoder() -> VisionTransformer:
        module = merge(definition, params, stats)
        return module if isinstance(module, VisionTransformer) else module.encoder

    def run(nudges: Nudges | None) -> tuple[Array, tuple[Features, Array | None, Array | None]]:
        """The sum of the logits asked for, and what was on the way."""
        module = encoder()
        features = module.features(images, train=False, nudges=nudges, return_attention=True)
        if not module.config.num_classes:
            return jnp.zeros(()), (features, None, None)
        logits = module.classify(features)
        chosen = logits.argmax(axis=-1) if target is None else target
        return jnp.take_along_axis(logits, chosen[:, None], axis=1).sum(), (features, logits, chosen)

    if method == "gradient_rollout":
        shapes = jax.eval_shape(run, None)[1][0]
        nudges = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), _weights(shapes))
        found, (features, logits, chosen) = jax.grad(run, has_aux=True)(nudges)
        found = jax.tree.map(jax.nn.relu, found)
    else:
        _, (features, logits, _) = run(None)
        found, chosen = _weights(features), None

    config, (_, height, width, _) = encoder().config, images.shape
    grid = config.grid((height, width))
    attention, pool = _weights(features)
    read = _read(config, attention.shape[-1])
    weights = jnp.einsum("n,lbhnm->lbhm", read, attention)
    if pool is not None:
        weights = jnp.concatenate([weights, pool[None, :, :, 0]])
    if method == "raw":
        relevance = weights[-1].mean(axis=1)  # [B, N]
    else:
        own = jnp.eye(attention.shape[-1])
        between = found.attention.mean(axis=2)  # [L, B, N, N]
        between = own + between if method == "gradient_rollout" else (own + between) / 2
        start = jnp.broadcast_to(read, (images.shape[0], read.shape[0]))
        if found.pool_attention is not None:
            start = found.pool_attention.mean(axis=1)[:, 0]
        relevance, _ = jax.lax.scan(
            lambda later, layer: (jnp.einsum("bn,bnm->bm", later, layer), None), start, between, reverse=True
        )
        if method == "gradient_rollout" and found.pool_attention is None:
            relevance = relevance - start

    def on_grid(x: Float[Array, "... N"]) -> Float[Array, "... rows columns"]:
        return x[..., config.prefix :].reshape(*x.shape[:-1], *grid)

    return AttentionMaps(on_grid(jnp.moveaxis(weights, 0, 1)), on_grid(relevance), images, logits, chosen)


def _weights(features: Features) -> Nudges:
    assert features.attention is not None  # it was asked for
    return Nudges(features.attention, features.pool_attention)


def _read(config: VisionTransformerConfig, tokens: int) -> Float[Array, " N"]:
    """The share that each token has in what is pooled, without attention pooling; where nothing is, as if it were."""
    places = jnp.arange(tokens)
    patches = (places >= config.prefix) / (tokens - config.prefix)
    first = 1 + config.distillation_head  # a second head reads the distillation token
    classes = (places < first) / first
    match config.pooling:
        case "cls":
            return classes
        case "cls_mean":
            return (classes + patches) / 2
        case "none" if config.class_token:
            return classes
    return patches


@partial(jax.jit, static_argnums=0)
def _cross(
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    images: Float[Array, "B height width ch"],
    tokens: Int[Array, "B T"],
    token_mask: Bool[Array, "B T"] | None,
) -> CrossAttentionMaps:
    module = merge(definition, params, stats)
    mask = None if token_mask is None else token_mask[:, :-1]
    encoded = module.encode(images, train=False)
    out = module.decode(encoded, tokens[:, :-1], decoder_mask=mask, train=False, return_attention=True)
    _, height, width, _ = images.shape
    rows, columns = image_encoder(module.config).grid((height, width))
    weights = jnp.transpose(out.attention[..., -rows * columns :], (1, 3, 0, 2, 4))  # [B, U, L, H, places]
    return CrossAttentionMaps(weights.reshape(*weights.shape[:-1], rows, columns), tokens, images)


def of_one_size(images: Any) -> Float[Array, "B height width ch"]:
    """Images of a batch as one array; ValueError if they are patches of many sizes."""
    if isinstance(images, PackedPatches):
        raise ValueError("these images come out in many sizes: maps are made of images of one size at a time")
    return jnp.asarray(images)


def _pictures(images: Float[Array, "B height width ch"]) -> UInt8[np.ndarray, "B height width c"]:
    """Normalised images stretched to full contrast, each for itself; channels that are no colours as their mean."""
    given = np.asarray(images, np.float32)
    if given.shape[-1] not in (1, 3):
        given = given.mean(axis=-1, keepdims=True)
    low, high = (extreme(given, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    return np.rint(255 * (given - low) / np.maximum(high - low, 1e-9)).astype(np.uint8)


def _written(directory: str | Path, arrays: dict[str, Any], name: str = "attention_maps") -> Path:
    """The directory, with the arrays in it."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **jax.device_get(arrays))
    return folder
