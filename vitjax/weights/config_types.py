"""A translated config.json holds what its fields say: whole numbers where those are expected, words that are known.

Families copy values as they stand in somebody's file; without this a text in place of a number would surface as an
error deep inside a layer, or `true` pass for 1.
"""

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from vitjax.models.config import ModelConfig
from vitjax.weights.stored import plain

_ADAPTER: TypeAdapter[ModelConfig] = TypeAdapter(Annotated[ModelConfig, Field(discriminator="kind")])


def require_types(config: ModelConfig) -> None:
    """Raises ValueError for the first field of `config`, or of a part of it, whose value is of another type."""
    try:
        _ADAPTER.validate_json(to_json(config), strict=True)
    except PydanticSerializationError as error:
        raise ValueError(f"not numbers and words alone: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"][1:]) or "the model"
        raise ValueError(f"{path} would be {plain(first['input'])}: {first['msg']}") from None
