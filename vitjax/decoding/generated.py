"""What people ask of a generation: texts, reasons, times, and where the decoder looked."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.data.tokenizers.protocol import Tokenizer
from vitjax.decoding.transcript import split_text
from vitjax.nn.positions import Grid


@dataclass(frozen=True)
class Generated:
    """What `vitjax.Model.generate` wrote: N sequences for each of B rows, best first.

    Attributes:
      tokens: [B, N, T] int32 with the decoder prompt and EOS, padded.
      scores: [B, N], sum of log-probabilities / length ** length_penalty.
      lengths: [B, N], tokens before the padding.
      token_log_probs: [B, N, T], 0 in prompt and padding.
      finished: [B, N], whether a stop token ended the sequence.
      steps: decoder steps that were run for the batch, the prompt counted as one.
      encode_seconds, decode_seconds: wall time until the first program was done, and from then until the second was;
        with their compilation where a call was the first of its shape. The first is taken by a thread, so that the
        programs follow each other without a pause, and may be a millisecond or two late.
      attention: [B, N, T - 1, S], where the decoder looked in the source when it wrote token t + 1 (mean over layers
        and heads); None unless asked for.
      grid: rows and columns of the image's places, the last of the S; None for text.
      tokenizer: the model's; without one there are tokens and no texts.
    """

    tokens: Int[Array, "B N T"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]
    token_log_probs: Float[Array, "B N T"]
    finished: Bool[Array, "B N"]
    steps: int
    encode_seconds: float
    decode_seconds: float
    attention: Float[Array, "B N U S"] | None
    grid: Grid | None
    tokenizer: Tokenizer | None

    @property
    def finish_reason(self) -> list[list[Literal["stop", "length"]]]:
        """Why each sequence ended: at a stop token, or because `max_length` was reached."""
        return [["stop" if done else "length" for done in row] for row in np.asarray(self.finished)]

    def text(self) -> list[list[str]]:
        """The N texts of each row."""
        tokenizer = self._reads()
        return [tokenizer.decode_batch(row) for row in np.asarray(self.tokens)]

    def pieces(self) -> list[list[list[str]]]:
        """What each token after the first says, up to the end of its sequence: entry t goes with `attention[b, n, t]`.

        Joined they are the text. A token that says nothing, such as EOS or a part of a character, is "".
        """
        tokenizer = self._reads()
        tokens, lengths = np.asarray(self.tokens), np.asarray(self.lengths)
        return [
            [split_text(tokenizer, sequence[:length]) for sequence, length in zip(*row, strict=True)]
            for row in zip(tokens, lengths, strict=True)
        ]

    def attention_maps(self) -> Float[Array, "B N U h w"]:
        """`attention` as maps over the image; class tokens and registers are left out.

        Raises:
          ValueError: attention was not asked for, or the source is text.
        """
        if self.attention is None or self.grid is None:
            raise ValueError(
                "there is no attention: generate(..., return_attention=True) keeps it"
                if self.attention is None
                else "the source is text, it has no places in an image: use .attention"
            )
        rows, columns = self.grid
        return self.attention[..., -rows * columns :].reshape(*self.attention.shape[:-1], rows, columns)

    def _reads(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer, so there is no text: read .tokens")
        return self.tokenizer
