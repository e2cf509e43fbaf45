"""The text of a sequence token by token: while it is written, and afterwards."""

import os
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int

from vitjax.data.tokenizers.protocol import Tokenizer

# What a text may end with and still change: bytes of a character that is not whole yet, and beginnings of what
# tokenizers join to the word before (`clean_up_tokenization_spaces`).
_UNSETTLED = ("\N{REPLACEMENT CHARACTER}", " n'", " 'v", " 'r", " n", " '", " ")


class Transcript:
    """The text of one sequence, told in pieces that never change: joined they are `decode` of all its tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._told = 0

    def add(self, tokens: Int[np.ndarray, " n"]) -> str:
        """What these tokens add to what was told before; an end that later tokens may change is kept back."""
        self._tokens += tokens.tolist()
        text = self._tokenizer.decode(self._tokens)
        settled = text
        while end := next((end for end in _UNSETTLED if settled.endswith(end)), ""):
            settled = settled[: -len(end)]
        return self._tell(settled)

    def finish(self) -> str:
        """What was kept back."""
        return self._tell(self._tokenizer.decode(self._tokens))

    def _tell(self, text: str) -> str:
        piece, self._told = text[self._told :], max(self._told, len(text))
        return piece


def told(tokenizer: Tokenizer, chunks: Iterable[Int[np.ndarray, "B N n"]]) -> Iterator[list[list[str]]]:
    """What each of B x N sequences goes on with, as chunks of new tokens come; the last is what was kept back."""
    transcripts: list[list[Transcript]] = []
    for chunk in chunks:
        transcripts = transcripts or [[Transcript(tokenizer) for _ in row] for row in chunk]
        yield [
            [transcript.add(tokens) for transcript, tokens in zip(*pair, strict=True)]
            for pair in zip(transcripts, chunk, strict=True)
        ]
    rest = [[transcript.finish() for transcript in row] for row in transcripts]
    if any(map(any, rest)):
        yield rest


def split_text(tokenizer: Tokenizer, tokens: Int[np.ndarray, " T"]) -> list[str]:
    """What each token after the first adds to the text of them all: T - 1 pieces, joined they are what it says."""
    text = tokenizer.decode(tokens)
    ends = [
        len(os.path.commonprefix([tokenizer.decode(tokens[:end]), text])) for end in range(1, len(tokens))
    ]
    ends = np.maximum.accumulate([0, *ends[1:], len(text)]).tolist()
    return [text[start:end] for start, end in zip(ends, ends[1:], strict=False)][: len(tokens) - 1]
