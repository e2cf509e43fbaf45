"""What a model in files says of itself, and how a run that starts from it is described."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from vitjax.data.config import DataConfig
from vitjax.data.preprocess import Preprocess
from vitjax.decoding.config import GenerationConfig
from vitjax.models.config import CLASSIFIERS, ModelConfig, image_encoder, reads_images
from vitjax.models.resnet import ResNetConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.training.config import InitConfig

HEAD = r"head(_\w+)?/.*"
"""Pattern of the parameters that belong to a classifier's classes."""


@dataclass(frozen=True)
class Pretrained:
    """What a checkpoint says of itself, its arrays left aside. A config file's `get_config(init)` is given one."""

    path: str
    """As it was given: a path or a hub id."""
    folder: str
    """Where it is on disk."""
    model: Annotated[ModelConfig, Field(discriminator="kind")]
    preprocess: Preprocess | None
    """Of its images; None if it reads text, or does not say."""
    generation: GenerationConfig
    family: str | None = None
    """Of checkpoints that others wrote: whose."""
    labels: tuple[str, ...] | None = None
    """Names of its classes, where they are written down."""
    part: str = ""
    """The part of the checkpoint's parameters that `model` is: `encoder`; empty for all."""

    def encoder(self) -> "Pretrained":
        """The part that reads images: of an image-to-text model its encoder, of a classifier all of it."""
        if isinstance(self.model, CLASSIFIERS):
            return self
        if not reads_images(self.model):
            raise ValueError(f"{self.path} reads text: it has no part that reads images")
        return dataclasses.replace(self, model=image_encoder(self.model), part="encoder")

    def only(self, part: str) -> "Pretrained":
        """The part called so: `encoder`, or all of it for an empty name."""
        if part == self.part:
            return self
        if part != "encoder" or isinstance(self.model, CLASSIFIERS):
            raise ValueError(f"init.part is {part!r}: {self.path}, a {self.model.kind}, has no such part")
        return self.encoder()

    def classifier(
        self, num_classes: int, *, transformer: Mapping[str, Any] | None = None, **options: Any
    ) -> VisionTransformerConfig | ResNetConfig:
        """Its model with a head for so many classes.

        Args:
          transformer: fields of `TransformerConfig` to change where the model is a Transformer, such as
            `{"stochastic_depth": 0.1}`; a ResNet has none of them.
          options: fields of the model's config to change. Another `image_size` resamples its positions once, for
            training at that size; without it positions stay as they are and other sizes interpolate them at each step.
        """
        if not isinstance(self.model, CLASSIFIERS):
            raise ValueError(
                f"{self.path} writes sequences: make a classifier of init.encoder(), not of init"
            )
        changes: dict[str, Any] = {"num_classes": num_classes, **options}
        if isinstance(self.model, VisionTransformerConfig):
            changes["transformer"] = dataclasses.replace(self.model.transformer, **(transformer or {}))
            if self.model.pooling == "none":
                changes = {"pooling": "cls" if self.model.class_token else "mean", **changes}
        else:
            changes.pop("image_size", None)
        return dataclasses.replace(self.model, **changes)

    def data(self, name: str, **fields: Any) -> DataConfig:
        """The dataset `name`, its images prepared as this model's were; `fields` are those of `DataConfig`."""
        prepared: dict[str, Any] = {}
        if self.preprocess is not None:
            prepared = self.preprocess.data_fields()
        elif reads_images(self.model):
            prepared = {"image_size": self.image_size, "channels": image_encoder(self.model).channels}
        return DataConfig(name, **{**prepared, **fields})

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the images that it was trained on."""
        if self.preprocess is not None:
            return self.preprocess.image_size
        encoder = image_encoder(self.model)
        if isinstance(encoder, VisionTransformerConfig):
            return encoder.image_size
        raise ValueError(f"{self.path} does not say what size its images had: set data.image_size")

    def start(self, *new: str) -> InitConfig:
        """Start from its parameters, but for those whose paths match one of the patterns."""
        return InitConfig(self.path, self.part, new)
