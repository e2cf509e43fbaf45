"""The tokenizer of a checkpoint folder, with the special tokens that the model generates by."""

from pathlib import Path

from vitjax.data.tokenizers import CharacterTokenizer, Tokenizer
from vitjax.data.tokenizers.pretrained import open_tokenizer, tokenizer_files
from vitjax.weights.checkpoint import read_json
from vitjax.weights.generation import read_ids


def read_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a folder in transformers' layout (or one that vitjax saved there); None if it has none.

    Begin, end and padding are the model's: those of its generation config, and where that is silent, the tokenizer's.

    Raises:
      ValueError: one line that names the file: damaged, or of a kind that vitjax does not read.
    """
    folder = Path(folder)
    files = tokenizer_files(folder)
    if not files:
        return None
    if files.get("tokenizer.json", b"").startswith(b'{"kind"'):
        return _characters(folder / "tokenizer.json")
    model = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    ids = read_ids(folder)
    return open_tokenizer(files, str(folder), model=model, bos=ids.start, eos=ids.ends, pad=ids.pad)


def _characters(path: Path) -> CharacterTokenizer:
    try:
        return CharacterTokenizer.from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
