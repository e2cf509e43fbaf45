"""Characters as tokens."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, Int32

from vitjax.data.tokenizers.protocol import require_room, stack_rows

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class CharacterTokenizer:
    """One token a character of `alphabet`, after pad (0), bos (1) and eos (2)."""

    alphabet: str

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 2

    def __post_init__(self) -> None:
        repeated = sorted({character for character in self.alphabet if self.alphabet.count(character) > 1})
        if repeated or not self.alphabet:
            found = f"{self.alphabet!r}, which repeats {''.join(repeated)!r}" if repeated else "empty"
            raise ValueError(f"the tokenizer's alphabet is {found}: expected each character once")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the three special ones included."""
        return 3 + len(self.alphabet)

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {character: token for token, character in enumerate(self.alphabet, start=3)}

    def encode(self, text: str, length: int | None = None) -> Int32[np.ndarray, " T"]:
        """Bos, the characters, eos, then pad up to `length`.

        Raises ValueError for a character outside the alphabet and for a text longer than `length`.
        """
        return self._padded(text, [self.bos, *self._tokens(text), self.eos], length)

    def encode_source(self, text: str, length: int | None = None) -> Int32[np.ndarray, " S"]:
        """The characters alone, then pad up to `length`. Raises as `encode`."""
        return self._padded(text, self._tokens(text), length)

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> Int32[np.ndarray, "B T"]:
        """Rows of `encode`, padded to `length`, or to the longest where it is None."""
        return stack_rows([self.encode(text, length) for text in texts], self.pad, length)[0]

    def decode(self, tokens: Int[np.ndarray, " T"] | Iterable[int]) -> str:
        """Text up to the first eos, without bos and pad; a token outside the vocabulary reads as U+FFFD."""
        characters = []
        for token in np.asarray(tokens).tolist():
            if token == self.eos:
                break
            if token not in (self.pad, self.bos):
                characters.append(self.alphabet[token - 3] if 3 <= token < self.vocab_size else UNKNOWN)
        return "".join(characters)

    def decode_batch(self, tokens: Int[np.ndarray, "B T"]) -> list[str]:
        """`decode` of every row."""
        return [self.decode(row) for row in np.asarray(tokens)]

    def to_dict(self) -> dict[str, str]:
        """As JSON can hold it."""
        return {"kind": "characters", "alphabet": self.alphabet}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "CharacterTokenizer":
        """The inverse of `to_dict`."""
        if fields.get("kind") != "characters" or not isinstance(fields.get("alphabet"), str):
            raise ValueError(
                f"not a character tokenizer: found {fields!r}, expected kind 'characters' and an alphabet"
            )
        return cls(fields["alphabet"])

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json`, which holds `to_dict()`."""
        text = json.dumps(self.to_dict(), ensure_ascii=False) + "\n"
        (Path(directory) / "tokenizer.json").write_text(text, encoding="utf-8")

    def _tokens(self, text: str) -> list[int]:
        try:
            return [self._token_of[character] for character in text]
        except KeyError as error:
            known = self.alphabet if len(self.alphabet) <= 40 else f"{self.alphabet[:40]}..."
            raise ValueError(
                f"text {text!r} has the character {error.args[0]!r}, which is not in the tokenizer's alphabet {known!r}"
            ) from None

    def _padded(self, text: str, tokens: list[int], length: int | None) -> Int32[np.ndarray, " T"]:
        require_room(text, len(tokens), length)
        return stack_rows([np.array(tokens, np.int32)], self.pad, length)[0][0]
