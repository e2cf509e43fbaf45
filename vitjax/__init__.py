"""Vision Transformers and image-to-text Transformers for JAX.

`vitjax.load`, `vitjax.save` and `vitjax.Model` are imported from `vitjax.api`, `vitjax.saved` and `vitjax.model` when
first asked for, so that the building blocks (`vitjax.nn`, `vitjax.models`, `vitjax.decoding`) stay usable where only
jax, flax, numpy and jaxtyping are installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from vitjax import _backend

if TYPE_CHECKING:
    from vitjax.api import load
    from vitjax.model import Model
    from vitjax.saved import save

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load", "save"]

_backend.guard()

_HOME = {"Model": "vitjax.model", "load": "vitjax.api", "save": "vitjax.saved"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'vitjax' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
