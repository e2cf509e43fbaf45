"""Data: TFDS builders, grain pipelines, image transforms, tokenizers. Knows nothing of models.

Heavy parts are imported when first asked for, so that a tokenizer or a config costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitjax.data.config import Augment, DataConfig
    from vitjax.data.images import decode_image, read_image
    from vitjax.data.pipeline import eval_batches, fingerprint, train_batches
    from vitjax.data.prefetch import prefetch_to_device, process_share
    from vitjax.data.preprocess import Preprocess, normalize
    from vitjax.data.sources import Source, SourceInfo, build_source, tokenizer_for
    from vitjax.data.tokenizers import CharacterTokenizer, Tokenizer

_HOME = {
    "Augment": "config",
    "CharacterTokenizer": "tokenizers",
    "DataConfig": "config",
    "Preprocess": "preprocess",
    "Source": "sources",
    "SourceInfo": "sources",
    "Tokenizer": "tokenizers",
    "build_source": "sources",
    "decode_image": "images",
    "eval_batches": "pipeline",
    "fingerprint": "pipeline",
    "normalize": "preprocess",
    "prefetch_to_device": "prefetch",
    "process_share": "prefetch",
    "read_image": "images",
    "tokenizer_for": "sources",
    "train_batches": "pipeline",
}
__all__ = [
    "Augment",
    "CharacterTokenizer",
    "DataConfig",
    "Preprocess",
    "Source",
    "SourceInfo",
    "Tokenizer",
    "build_source",
    "decode_image",
    "eval_batches",
    "fingerprint",
    "normalize",
    "prefetch_to_device",
    "process_share",
    "read_image",
    "tokenizer_for",
    "train_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vitjax.data' has no attribute {name!r}")
    return getattr(import_module(f"vitjax.data.{_HOME[name]}"), name)
