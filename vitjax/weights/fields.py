"""Values out of a transformers config.json: a missing one is the reference's default, an unknown one is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitjax.nn.feedforward import Activation

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation_of(fields: Mapping[str, Any], name: str = "hidden_act", default: str = "gelu") -> Activation:
    """The activation that a config names; ValueError for one that we do not have."""
    found = fields.get(name, default)
    if found not in ACTIVATIONS:
        raise ValueError(f"{name} is {found!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[found]


def activation_name(activation: Activation) -> str:
    """What transformers calls it."""
    for name, ours in ACTIVATIONS.items():
        if ours == activation:
            return {"gelu_new": "gelu_pytorch_tanh"}.get(name, name)
    raise ValueError(f"transformers has no activation {activation!r} here")


def pair_of(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """Rows and columns of a size that is one number or two."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(number, int) and number > 0 for number in pair):
        raise ValueError(f"{name} is {value!r}: expected one or two positive integers")
    return pair


def has_remainder(image_size: tuple[int, int], patch_size: tuple[int, int]) -> bool:
    """Whether whole patches do not fill the image: transformers and timm then leave pixels out (SigLIP, 384 / 14)."""
    return any(size % patch for size, patch in zip(image_size, patch_size, strict=True))


def one_or_two(pair: tuple[int, int]) -> int | list[int]:
    """The inverse of `pair_of`."""
    return pair[0] if pair[0] == pair[1] else list(pair)


def num_labels(num_classes: int) -> dict[str, int]:
    """The field that says how many classes a head has, which transformers takes for two where nothing says it."""
    return {"num_labels": num_classes} if num_classes else {}


def demand(fields: Mapping[str, Any], **expected: Any) -> None:
    """Raise ValueError for the first field that is there and is not what alone we have a model for."""
    for name, value in expected.items():
        if name in fields and fields[name] != value:
            raise ValueError(f"{name} is {fields[name]!r}: only {value!r} is supported")
