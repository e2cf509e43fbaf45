"""A model without what only training sees: what another library's config.json need not tell."""

from dataclasses import fields, is_dataclass
from typing import Any

from vitjax.models.resnet import ResNetConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig

# of no consequence to what a trained model says: other libraries need not be able to hold them
TRAINING_ONLY: dict[type, dict[str, Any]] = {
    TransformerConfig: {
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "stochastic_depth": 0.0,
        "remat": "none",
        "unroll": False,
        "dtype": "float32",
    },
    VisionTransformerConfig: {"head_bias": 0.0},
    ResNetConfig: {"dtype": "float32"},
}


def untrained(config: Any) -> Any:
    """The config without what only training sees; of a layer scale only whether there is one."""
    if not is_dataclass(config) or isinstance(config, type):
        return config
    changed = {field.name: untrained(getattr(config, field.name)) for field in fields(config)}
    changed.update(TRAINING_ONLY.get(type(config), {}))
    if isinstance(config, TransformerConfig) and config.layer_scale is not None:
        changed["layer_scale"] = 1.0
    return type(config)(**changed)
