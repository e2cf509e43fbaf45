"""Names of the classes, as config.json of transformers and of timm hold them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vitjax.models.config import CLASSIFIERS, ModelConfig


def read_labels(fields: Mapping[str, Any], config: ModelConfig) -> tuple[str, ...] | None:
    """A name for each class, None where the file has none, or only transformers' LABEL_0, LABEL_1, ..."""
    if not isinstance(config, CLASSIFIERS) or not config.num_classes:
        return None
    names: Any = fields.get("label_names")
    if isinstance(by_id := fields.get("id2label"), Mapping):
        names = [by_id.get(str(index)) for index in range(len(by_id))]
    if not isinstance(names, list) or len(names) != config.num_classes:
        return None
    if not all(isinstance(name, str) for name in names) or all(re.fullmatch(r"LABEL_\d+", n) for n in names):
        return None
    return tuple(names)


def label_fields(labels: Sequence[str] | None, format: Literal["hf", "timm"]) -> dict[str, Any]:
    """What config.json says of the names."""
    if labels is None:
        return {}
    if format == "timm":
        return {"label_names": list(labels)}
    return {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }
