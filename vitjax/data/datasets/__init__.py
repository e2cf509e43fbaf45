"""vitjax's own TFDS dataset builders: real and generated data that need no download and no TensorFlow."""

from importlib import import_module
from typing import Any

_HOME = {
    "digits": ("vitjax.data.datasets.digits", "Digits"),
    "digit_strings": ("vitjax.data.datasets.digit_strings", "DigitStrings"),
    "text_lines": ("vitjax.data.datasets.text_lines", "TextLines"),
    "reverse_words": ("vitjax.data.datasets.reverse_words", "ReverseWords"),
}
OWN = tuple(_HOME)


def own_builder(name: str) -> Any:
    """The builder class of one of `OWN`; its module is imported only now."""
    module, builder = _HOME[name]
    return getattr(import_module(module), builder)
