"""The tokenizer of a checkpoint folder. It keeps the folder's files, and is saved as they were."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32

from vitjax.data.tokenizers.fast import FastTokenizer
from vitjax.data.tokenizers.marian import MarianTokenizer
from vitjax.data.tokenizers.protocol import require_room, stack_rows
from vitjax.data.tokenizers.settings import Settings

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "target_vocab.json",
)
_VOCABULARIES = {
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
}


@runtime_checkable
class Backend(Protocol):
    """What runs a tokenizer."""

    @property
    def size(self) -> int:
        """Tokens, with those added."""

    def token_id(self, token: str) -> int | None:
        """None if there is no such token."""

    def encode(self, text: str, *, written: bool) -> list[int]:
        """Ids with special tokens around them, as transformers' labels (`written`) or `input_ids`."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text without special tokens."""


@dataclass(frozen=True, repr=False)
class PretrainedTokenizer:
    """A tokenizer that came with a checkpoint: ids and texts are those of transformers 5.

    Attributes:
      files: by name, as the folder had them.
      kind: transformers' name of its class; "" where none is named.
      bos, eos, pad: as in `Tokenizer`. They are what the model's generation config says, where it says so.
      backend: what runs it.
    """

    files: Mapping[str, bytes]
    kind: str
    bos: int
    eos: int
    pad: int
    backend: Backend = field(compare=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special and added ones included."""
        return self.backend.size

    def encode(self, text: str, length: int | None = None) -> Int32[np.ndarray, " T"]:
        """Bos, transformers' labels of `text`, eos if they do not end with it, then pad up to `length`.

        Raises ValueError for a text longer than `length`.
        """
        labels = self.backend.encode(_utf8(text), written=True)
        end = [] if labels and labels[-1] == self.eos else [self.eos]
        return self._padded(text, [self.bos, *labels, *end], length)

    def encode_source(self, text: str, length: int | None = None) -> Int32[np.ndarray, " S"]:
        """transformers' `input_ids` of `text`, then pad up to `length`. Raises as `encode`."""
        return self._padded(text, self.backend.encode(_utf8(text), written=False), length)

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> Int32[np.ndarray, "B T"]:
        """Rows of `encode`, padded to `length`, or to the longest where it is None."""
        return stack_rows([self.encode(text, length) for text in texts], self.pad, length)[0]

    def decode(self, tokens: Int[np.ndarray, " T"] | Iterable[int]) -> str:
        """transformers' `decode(tokens, skip_special_tokens=True)`; ids that there are not are left out."""
        return self.backend.decode(np.asarray(tokens).tolist())

    def decode_batch(self, tokens: Int[np.ndarray, "B T"]) -> list[str]:
        """`decode` of every row."""
        return [self.decode(row) for row in np.asarray(tokens)]

    def to_dict(self) -> dict[str, Any]:
        """Its kind, size, special tokens and files."""
        return {
            "kind": self.kind or "tokenizer.json",
            "vocab_size": self.vocab_size,
            "bos": self.bos,
            "eos": self.eos,
            "pad": self.pad,
            "files": sorted(self.files),
        }

    def save(self, directory: str | Path) -> None:
        """Write its files as they were."""
        for name, content in self.files.items():
            (Path(directory) / name).write_bytes(content)

    def __repr__(self) -> str:
        """Changes with every byte of the files."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return (
            f"PretrainedTokenizer({self.kind!r}, bos={self.bos}, eos={self.eos}, pad={self.pad}, "
            f"files={digest.hexdigest()[:16]})"
        )

    def _padded(self, text: str, tokens: list[int], length: int | None) -> Int32[np.ndarray, " T"]:
        require_room(text, len(tokens), length)
        return stack_rows([np.array(tokens, np.int32)], self.pad, length)[0][0]


def tokenizer_files(folder: str | Path) -> dict[str, bytes]:
    """The tokenizer's files of a folder, by name; {} if no vocabulary is among them."""
    found = {name: Path(folder, name).read_bytes() for name in FILES if Path(folder, name).is_file()}
    return found if _VOCABULARIES & set(found) else {}


def open_tokenizer(
    files: Mapping[str, bytes],
    where: str,
    *,
    model: Mapping[str, Any] | None = None,
    bos: int | None = None,
    eos: Sequence[int] = (),
    pad: int | None = None,
) -> PretrainedTokenizer:
    """The tokenizer in these files of the folder `where`.

    Args:
      model: fields of the checkpoint's config.json: its type tells the tokenizer's class where nothing else does.
      bos, eos, pad: the model's ids, of `eos` any; by default those of the tokens that the folder names bos or cls,
        eos or sep, pad.

    Raises:
      ValueError: one line that names the file, and why it cannot be read.
    """
    settings = Settings.read(files, where, model or {})
    if "auto_map" in settings.fields and "tokenizer.json" not in files:
        raise ValueError(
            f"{where}/tokenizer_config.json asks for code of its own (auto_map), which vitjax never runs: expected a "
            "tokenizer.json, which needs none"
        )
    marian = settings.kind == "MarianTokenizer" and ("source.spm" in files or "tokenizer.json" not in files)
    backend: Backend = (MarianTokenizer if marian else FastTokenizer).read(files, settings)

    def named(*names: str) -> int | None:
        tokens = (backend.token_id(settings.named[name].content) for name in names if name in settings.named)
        return next((token for token in tokens if token is not None), None)

    end = named("eos_token", "sep_token")
    if eos and end not in eos:
        end = eos[0]
    if end is None:
        raise ValueError(f"{where} names no token that ends a text: set eos_token in tokenizer_config.json")
    pad = named("pad_token") if pad is None else pad
    pad = end if pad is None else pad
    bos = named("bos_token", "cls_token") if bos is None else bos
    return PretrainedTokenizer(dict(files), settings.kind, pad if bos is None else bos, end, pad, backend)


def _utf8(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"text {text!r} is no Unicode text: {error}") from None
    return text
