"""Marian's tokenizers: a SentencePiece model for each side, and a vocabulary that numbers the pieces of both."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vitjax.data.tokenizers.fast import clean_up
from vitjax.data.tokenizers.sentencepiece_model import SPACE, read_processor
from vitjax.data.tokenizers.settings import NAMED, Settings, read_object


@dataclass(frozen=True)
class Side:
    """What is read, or what is written: SentencePiece, the ids of its pieces, and the id of those that have none."""

    processor: Any
    ids: Mapping[str, int]
    unknown: int

    def encode(self, text: str) -> list[int]:
        """A target language in front, `>>fra<<`, is one token."""
        end = text.find("<<") + 2 if text.startswith(">>") else 0
        code, text = (text[:end], text[end:]) if end > 1 else ("", text)
        pieces = self.processor.encode(text, out_type=str)
        return [self.ids.get(piece, self.unknown) for piece in ([code] if code else []) + pieces]


@dataclass(frozen=True)
class MarianTokenizer:
    """transformers' MarianTokenizer.

    Attributes:
      added: ids of tokens that are found in a text before SentencePiece sees it.
      special: ids left out of what is decoded.
      end: id behind every text.
      separate: whether each side has a vocabulary of its own; otherwise the source's SentencePiece joins pieces, as in
        transformers.
    """

    source: Side
    target: Side
    added: Mapping[str, int]
    special: frozenset[int]
    end: int
    separate: bool
    cleans_up: bool

    @classmethod
    def read(cls, files: Mapping[str, bytes], settings: Settings) -> "MarianTokenizer":
        """From source.spm, target.spm and vocab.json. Raises ValueError, one line that names the file."""
        separate = settings.flag("separate_vocabs", False)
        target_name = "target_vocab.json" if separate else "vocab.json"
        source = _side(files, "source.spm", "vocab.json", settings)
        target = _side(files, "target.spm", target_name, settings)
        odd = [
            token.content
            for token in settings.added.values()
            if token.lstrip or token.rstrip or token.single_word
        ]
        if odd:
            raise ValueError(
                f"{settings.where}: the added token {odd[0]!r} takes spaces with it or wants whole words, which is not "
                "read for a MarianTokenizer"
            )
        added = {token.content: key for key, token in settings.added.items()}
        size = len({**source.ids, **added})
        named = [settings.named[name] for name in NAMED if name in settings.named]
        special = [*named, *(settings.extra or settings.also)]
        for token in special:
            if token.content not in added:
                added[token.content] = source.ids.get(token.content, size)
                size += token.content not in source.ids
        return cls(
            source,
            target,
            added,
            frozenset(added[token.content] for token in special),
            added[settings.token("eos_token")],
            separate,
            settings.flag("clean_up_tokenization_spaces", False),
        )

    @property
    def size(self) -> int:
        """Tokens, with those added."""
        return len({**self.source.ids, **self.added})

    def token_id(self, token: str) -> int | None:
        """None if there is no such token."""
        return self.added.get(token, self.source.ids.get(token))

    def encode(self, text: str, *, written: bool) -> list[int]:
        """Ids with eos behind them."""
        side = self.target if written else self.source
        return [*(token for part in self._pattern.split(text) for token in self._ids(part, side)), self.end]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text without special tokens; ids that there are not are left out."""
        pieces = (self._pieces.get(token) for token in tokens if token not in self.special)
        joining = self.target if self.separate else self.source
        text = joining.processor.decode_pieces([piece for piece in pieces if piece is not None])
        text = text.replace(SPACE, " ").strip()
        return clean_up(text) if self.cleans_up else text

    @cached_property
    def _pieces(self) -> dict[int, str]:
        """By id. One that the vocabulary does not have is SentencePiece's own, as in transformers."""
        processor = (self.target if self.separate else self.source).processor
        own = {token: processor.id_to_piece(token) for token in range(processor.get_piece_size())}
        numbered = {token: piece for piece, token in self.target.ids.items()}
        return own | numbered | {token: content for content, token in self.added.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """The longest first."""
        contents = sorted(self.added, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, contents))})")

    def _ids(self, part: str, side: Side) -> list[int]:
        if part in self.added:
            return [self.added[part]]
        return side.encode(part) if part else []


def _side(files: Mapping[str, bytes], model: str, vocabulary: str, settings: Settings) -> Side:
    if missing := [name for name in (model, vocabulary) if name not in files]:
        raise ValueError(f"{settings.where} has no {missing[0]}: a MarianTokenizer needs it")
    ids = read_object(files, vocabulary, settings.where)
    for piece, token in ids.items():
        if not isinstance(token, int) or token < 0:
            raise ValueError(
                f"{settings.where}/{vocabulary} gives {piece!r:.80} the id {token!r:.80}: expected a whole number"
            )
    unknown = settings.token("unk_token")
    if unknown not in ids:
        raise ValueError(
            f"{settings.where}/{vocabulary} has no {unknown!r}, which pieces without an id become"
        )
    return Side(read_processor(files[model], f"{settings.where}/{model}"), ids, ids[unknown])
