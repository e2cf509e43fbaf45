"""What the rest of vitjax asks of a tokenizer, and rows of tokens as one array."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32


@runtime_checkable
class Tokenizer(Protocol):
    """Text to tokens and back, for a decoder that writes it and an encoder that reads it."""

    @property
    def pad(self) -> int:
        """Fills a row behind its end. It may be one of the other tokens: go by lengths, not by it."""

    @property
    def bos(self) -> int:
        """What the decoder reads before it writes its first token: transformers' `decoder_start_token_id`."""

    @property
    def eos(self) -> int:
        """Ends a text."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included. A model may have more."""

    def encode(self, text: str, length: int | None = None) -> Int32[np.ndarray, " T"]:
        """`text` as the decoder writes it: bos, the text's tokens, eos, then pad up to `length`.

        Raises:
          ValueError: the tokens do not fit into `length`, or the text cannot be said with this vocabulary.
        """

    def encode_source(self, text: str, length: int | None = None) -> Int32[np.ndarray, " S"]:
        """`text` as the encoder reads it, then pad up to `length`. Raises as `encode`."""

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> Int32[np.ndarray, "B T"]:
        """Rows of `encode`, padded to `length`, or to the longest where it is None."""

    def decode(self, tokens: Int[np.ndarray, " T"] | Iterable[int]) -> str:
        """The text of tokens, special ones left out."""

    def decode_batch(self, tokens: Int[np.ndarray, "B T"]) -> list[str]:
        """`decode` of every row."""

    def to_dict(self) -> dict[str, Any]:
        """What to tell people about it, as JSON can hold it."""

    def save(self, directory: str | Path) -> None:
        """Write its files into a directory, from which it is read as the same tokenizer."""


def stack_rows(
    rows: Sequence[Int[np.ndarray, "_"]], pad: int, length: int | None = None
) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows of different lengths as one array, filled with `pad`; and where the tokens are.

    Args:
      length: T, the longest row's if None.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    size = lengths.max(initial=0) if length is None else length
    mask = np.arange(size) < lengths[:, None]
    tokens = np.full(mask.shape, pad, np.int32)
    tokens[mask] = np.concatenate([*rows, np.zeros(0, np.int32)])
    return tokens, mask


def require_room(text: str, count: int, length: int | None) -> None:
    """ValueError if a text of `count` tokens is longer than `length`."""
    if length is not None and count > length:
        raise ValueError(f"text {text!r} takes {count} tokens, max_length is {length}: raise max_length")
