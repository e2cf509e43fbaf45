"""A run's `tokenizer.json`: it travels with the model, so that decoding needs no dataset.

A tokenizer that came with a checkpoint keeps its files, which lie in `tokenizer/`; `tokenizer.json` tells of them.
"""

import json
from pathlib import Path
from typing import Any

from vitjax.data.tokenizers import CharacterTokenizer, Tokenizer
from vitjax.data.tokenizers.pretrained import PretrainedTokenizer, open_tokenizer, tokenizer_files

NAME = "tokenizer.json"
FOLDER = "tokenizer"


def save_tokenizer(directory: str | Path, tokenizer: Tokenizer) -> None:
    """Write it as JSON, and its files beside it if it has any."""
    if not isinstance(tokenizer, PretrainedTokenizer):
        tokenizer.save(directory)
        return
    (Path(directory) / FOLDER).mkdir(exist_ok=True)
    tokenizer.save(Path(directory) / FOLDER)
    fields = {"class": tokenizer.kind, "bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    (Path(directory) / NAME).write_text(json.dumps({"kind": "files", **fields}) + "\n", encoding="utf-8")


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Raises ValueError, one line that names the file, if it is missing or no tokenizer."""
    path = Path(directory) / NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"found a {type(fields).__name__}, expected an object")
        return _files(path, fields) if fields.get("kind") == "files" else CharacterTokenizer.from_dict(fields)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the run's tokens cannot be read") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a tokenizer: {error}") from None


def _files(path: Path, fields: dict[str, Any]) -> Tokenizer:
    for name in ("bos", "eos", "pad"):
        if not isinstance(fields.get(name), int):
            raise ValueError(f"{name} is {fields.get(name)!r}, expected a token's id")
    where = path.parent / FOLDER
    files = tokenizer_files(where)
    if not files:
        raise ValueError(f"{where} holds no tokenizer")
    return open_tokenizer(
        files,
        str(where),
        model={"tokenizer_class": fields.get("class")},
        bos=fields["bos"],
        eos=(fields["eos"],),
        pad=fields["pad"],
    )
