"""A run's `tokenizer.json`: it travels with the model, so that decoding needs no dataset."""

import json
from pathlib import Path

from vitjax.data.tokenizers import CharacterTokenizer

NAME = "tokenizer.json"


def save_tokenizer(directory: str | Path, tokenizer: CharacterTokenizer) -> None:
    """Write it as JSON."""
    (Path(directory) / NAME).write_text(json.dumps(tokenizer.to_dict(), ensure_ascii=False) + "\n")


def load_tokenizer(directory: str | Path) -> CharacterTokenizer:
    """Raises ValueError, one line that names the file, if it is missing or no tokenizer."""
    path = Path(directory) / NAME
    try:
        return CharacterTokenizer.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the run's tokens cannot be read") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
