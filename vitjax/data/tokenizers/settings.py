"""What a checkpoint folder says of its tokenizer beside the vocabulary: its class, its special and added tokens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_LSTRIP_MASK = {"mask_token": {"content": "<mask>", "lstrip": True}}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "RobertaTokenizer": _ROBERTA,
    "XLMRobertaTokenizer": _ROBERTA,
    "MBartTokenizer": _ROBERTA | _LSTRIP_MASK,
    "MBart50Tokenizer": {name: _ROBERTA[name] for name in NAMED if name != "bos_token"} | _LSTRIP_MASK,
    "BertTokenizer": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "MarianTokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}
_SAME = {"BartTokenizer": "RobertaTokenizer", "DistilBertTokenizer": "BertTokenizer"}
_BY_TYPE = {
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
_BY_FILE = {
    "source.spm": "MarianTokenizer",
    "spiece.model": "T5Tokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "vocab.txt": "BertTokenizer",
}


@dataclass(frozen=True)
class Added:
    """A token that is found in a text before anything else is done with it.

    Attributes:
      special: left out of what is decoded.
      normalized: looked for in the normalized text. As by default in `tokenizers`: where it is not special.
      lstrip, rstrip: it takes the spaces before or behind it with it.
      single_word: only where no letter touches it.
    """

    content: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @classmethod
    def of(cls, value: Any, where: str, **flags: bool) -> "Added":
        """From a string, which means a special token, or from an object as transformers writes them."""
        fields: Any = {"content": value, "special": True} if isinstance(value, str) else value
        if not (isinstance(fields, dict) and isinstance(fields.get("content"), str)):
            raise ValueError(f"{where} is {value!r:.80}: expected a token, or an object with its content")
        fields = {"special": False, **fields, **flags}
        known = {name: bool(fields[name]) for name in _FLAGS if name in fields}
        return cls(fields["content"], **{"normalized": not known["special"], **known})


@dataclass(frozen=True)
class Settings:
    """The JSON files beside the vocabulary, read as transformers 5 does.

    Attributes:
      where: the folder.
      kind: transformers' name of the tokenizer's class, without "Fast"; by the files where none is given.
      fields: of tokenizer_config.json.
      named: the tokens that have a name, such as "pad_token".
      added: by id.
      extra: more special tokens; () if none are named.
      also: the same, from a file that transformers reads last, for what has none of its own.
    """

    where: str
    kind: str
    fields: Mapping[str, Any]
    named: Mapping[str, Added]
    added: Mapping[int, Added]
    extra: tuple[Added, ...]
    also: tuple[Added, ...]

    @classmethod
    def read(cls, files: Mapping[str, bytes], where: str, model: Mapping[str, Any]) -> "Settings":
        """From a folder's tokenizer files and the fields of its config.json; ValueError names the file."""
        at, late = f"{where}/tokenizer_config.json", f"{where}/special_tokens_map.json"
        fields = dict(read_object(files, "tokenizer_config.json", where))
        kind = _kind(fields, files, model)
        stored = "added_tokens_decoder" in fields
        # Newer folders have all of it in one file.
        more = {} if stored else read_object(files, "special_tokens_map.json", where)
        given = {**_DEFAULTS.get(kind, {}), **fields, **more}
        tokens = {
            name: Added.of(given[name], f"{late if name in more else at}: {name}", special=True)
            for name in NAMED
            if given.get(name) is not None
        }
        extra = _extra(fields.get("additional_special_tokens") or given.get("extra_special_tokens"), at)
        also = () if extra else _extra(more.get("additional_special_tokens"), late)
        if stored:
            added = _decoder(fields["added_tokens_decoder"], f"{at}: added_tokens_decoder")
        else:
            special = {token.content for token in (*tokens.values(), *extra)}
            added = _encoder(read_object(files, "added_tokens.json", where), special, where)
        by_content = {token.content: token for token in added.values()}
        tokens = {name: by_content.get(token.content, token) for name, token in tokens.items()}
        return cls(where, kind, fields, tokens, added, extra, also)

    def flag(self, name: str, default: bool) -> bool:
        """A switch of tokenizer_config.json."""
        value = self.fields.get(name)
        return default if value is None else bool(value)

    def token(self, *names: str) -> str:
        """The first of these named tokens that there is, as text."""
        for name in names:
            if name in self.named:
                return self.named[name].content
        raise ValueError(f"{self.where} names no {' or '.join(names)}: set it in tokenizer_config.json")


def read_object(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    """A JSON object of a folder, {} if there is no such file; ValueError names the file."""
    if name not in files:
        return {}
    try:
        fields = json.loads(files[name].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}/{name} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where}/{name} holds a {type(fields).__name__}: expected an object")
    return fields


def _kind(fields: Mapping[str, Any], files: Mapping[str, bytes], model: Mapping[str, Any]) -> str:
    named = fields.get("tokenizer_class") or model.get("tokenizer_class")
    kind = str(named).removesuffix("Fast") if named else ""
    kind = _SAME.get(kind, kind)
    if kind in _DEFAULTS or (kind and "tokenizer.json" in files):
        return kind
    types = [str(part.get("model_type")) for part in (model, model.get("decoder")) if isinstance(part, dict)]
    by_type = next((_BY_TYPE[name] for name in types if name in _BY_TYPE), "")
    by_file = next((_BY_FILE[name] for name in _BY_FILE if name in files), "")
    if not by_file and {"vocab.json", "merges.txt"} <= set(files):
        by_file = "RobertaTokenizer" if b'"<s>"' in files["vocab.json"] else "GPT2Tokenizer"
    return by_type or by_file or kind


def _decoder(value: Any, at: str) -> dict[int, Added]:
    if not (isinstance(value, dict) and all(str(key).isdecimal() for key in value)):
        raise ValueError(f"{at} is {value!r:.80}: expected an object of ids with their tokens")
    tokens = {int(key): Added.of(token, f"{at}[{key}]") for key, token in value.items()}
    return dict(sorted(tokens.items()))


def _encoder(fields: Mapping[str, Any], special: set[str], where: str) -> dict[int, Added]:
    at = f"{where}/added_tokens.json"
    for token, key in fields.items():
        if not isinstance(key, int) or key < 0:
            raise ValueError(f"{at} gives {token!r:.80} the id {key!r:.80}: expected a whole number")
    return {
        key: Added(token, special=token in special, normalized=token not in special)
        for token, key in sorted(fields.items(), key=lambda item: item[1])
    }


def _extra(found: Any, at: str) -> tuple[Added, ...]:
    if isinstance(found, dict):  # tokens by a name of their own
        found = list(found.values())
    if not isinstance(found, list | None):
        raise ValueError(f"{at}: the extra special tokens are {found!r:.80}: expected a list")
    return tuple(Added.of(value, f"{at}: extra special tokens", special=True) for value in found or ())
