"""A run's `tokenizer.json`: it travels with the model, so that decoding needs no dataset."""

import json
from pathlib import Path

from vitjax.data.tokenizers import CharacterTokenizer, Tokenizer

NAME = "tokenizer.json"


def save_tokenizer(directory: str | Path, tokenizer: Tokenizer) -> None:
    """Write it as JSON."""
    tokenizer.save(directory)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Raises ValueError, one line that names the file, if it is missing or no tokenizer."""
    path = Path(directory) / NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"found a {type(fields).__name__}, expected an object")
        return CharacterTokenizer.from_dict(fields)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the run's tokens cannot be read") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
