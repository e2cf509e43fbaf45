"""What an image classifier cannot do without: how far its logit falls when a part of the image is covered.

    maps = attention_maps(model, images, method="gradient_rollout")
    falls = occlusion(model, images)      # [B, rows, columns]: of the same patches, and no attention is asked

Attention says where a model looks, covering what its answer rests on; whether they agree is worth a look.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.analysis.attention_maps import of_one_size
from vitjax.models.config import image_encoder

if TYPE_CHECKING:
    import vitjax.model


def occlusion(
    model: "vitjax.model.Model",
    images: Any,
    *,
    fill: Any = 0.0,
    grid: tuple[int, int] | None = None,
    target: Any = None,
) -> Float[Array, "B rows columns"]:
    """How much the logit of a class falls when each part of an image is covered, one part at a time.

    One program that is called once for each part, and once for the whole image.

    Args:
      model: a `vitjax.Model` that names classes, a ResNet too.
      images: as `Model.logits` takes them, of one size.
      fill: what covers a part, in normalised values: a number, or an image [height, width, ch] such as a mean.
      grid: rows and columns of equal parts; None: the patches of a ViT, the cells of a ResNet's last features.
      target: the class: one, or one for each image; None: what the model says of the whole image.

    Raises:
      ValueError: the model names no classes, or not these.
    """
    if model.writes:
        raise ValueError("this model names no classes: occlusion asks what a class rests on")
    images = of_one_size(model.prepare(images))
    size, fill = images.shape[1:3], jnp.asarray(fill, images.dtype)
    rows, columns = grid or image_encoder(model.config).grid(size)
    row, column = (np.arange(n) * parts // n for n, parts in zip(size, (rows, columns), strict=True))
    part_of = (row[:, None] * columns + column)[..., None]  # [height, width, 1]
    whole = model.logits(images)
    classes = np.asarray(whole.argmax(axis=-1) if target is None else target, np.int32)
    if classes.min() < 0 or classes.max() >= whole.shape[-1]:
        raise ValueError(f"target {target}: the classes are 0 to {whole.shape[-1] - 1}")
    chosen = np.broadcast_to(classes, images.shape[:1])

    def of_class(logits: Float[Array, "B classes"]) -> Float[Array, " B"]:
        return jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0]

    covered = (jnp.where(part_of == part, fill, images) for part in range(rows * columns))
    falls = [of_class(whole) - of_class(model.logits(image)) for image in covered]
    return jnp.stack(falls, axis=1).reshape(-1, rows, columns)
