"""Text to tokens and back. The libraries behind a tokenizer are imported when one is read."""

from vitjax.data.tokenizers.characters import UNKNOWN, CharacterTokenizer
from vitjax.data.tokenizers.protocol import Tokenizer

__all__ = ["UNKNOWN", "CharacterTokenizer", "Tokenizer"]
