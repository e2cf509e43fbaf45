"""What a family of checkpoints is: how its configuration and its names become ours, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitjax.models.config import ModelConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.weights.table import Entry, Ignored
from vitjax.weights.tensors import TensorSpec

Fields = Mapping[str, Any]
Specs = Mapping[str, TensorSpec]
Format = Literal["hf", "timm", "npz"]


@dataclass(frozen=True)
class Family:
    """One architecture as one library writes it.

    Attributes:
      name: as `vitjax inspect` prints it.
      format: whose files these are: transformers', timm's, or big_vision's.
      recognizes: whether a folder is of this family, by its config.json ({} for an .npz) and its arrays.
      read_config: the model, of config.json and the arrays' shapes; ValueError for what we have no such model for.
      write_config: the config.json of a model; ValueError where this family has no such model. Saving also demands that
        `read_config` of it gives the same model again.
      entries: the table of names, without `prefix`.
      prefix: what stands before the names of the base model, `vit.`. It is read with it or without, and written where
        one of `heads` is written too, or always if there are none.
      heads: beginnings of the names that never have the prefix.
      copies: names under which files of a config hold an array again, and the name it has in the table.
      ignored: arrays that are left out.
    """

    name: str
    format: Format
    recognizes: Callable[[Fields, Specs], bool]
    read_config: Callable[[Fields, Specs], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    entries: Callable[[Any], Sequence[Entry]]
    prefix: str = ""
    heads: tuple[str, ...] = ()
    copies: Callable[[Fields], Mapping[str, str]] = lambda fields: {}
    ignored: tuple[Ignored, ...] = ()


@dataclass(frozen=True)
class TextDecoder:
    """One architecture of the decoders that transformers puts behind an image encoder (`VisionEncoderDecoderModel`).

    Attributes are those of `Family`, for the `decoder` in config.json and the arrays under `decoder.`; paths of ours
    begin at the `TransformerDecoder`.
    """

    name: str
    model_type: str
    read_config: Callable[[Fields, Specs], DecoderConfig]
    write_config: Callable[[DecoderConfig], dict[str, Any]]
    entries: Callable[[DecoderConfig], Sequence[Entry]]
    copies: Mapping[str, str]
    ignored: tuple[Ignored, ...] = ()


def has_model_type(*names: str) -> Callable[[Fields, Specs], bool]:
    """A `recognizes` for transformers' `model_type`."""
    return lambda fields, specs: fields.get("model_type") in names
