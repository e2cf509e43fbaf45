"""Tokenizers that the library `tokenizers` runs: from tokenizer.json as it stands, or built from vocabulary files."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitjax.data.tokenizers.build import Built, build
from vitjax.data.tokenizers.settings import Added, Settings, read_object

Affixes = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids before and behind those of a text."""
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def clean_up(text: str) -> str:
    """Take out the spaces that a tokenizer of words put before punctuation, as transformers does it."""
    for spaced in CLEAN_UP:
        text = text.replace(spaced, spaced.strip())
    return text


@dataclass(frozen=True)
class FastTokenizer:
    """A `tokenizers.Tokenizer` and what transformers does around it.

    Attributes:
      affixes: of what is read and of what is written; None where the tokenizer itself adds them.
      cleans_up: whether `clean_up` goes over decoded texts.
    """

    tokenizer: Any
    affixes: tuple[Affixes, Affixes] | None
    cleans_up: bool

    @classmethod
    def read(cls, files: Mapping[str, bytes], settings: Settings) -> "FastTokenizer":
        """From tokenizer.json if there is one, else from the files of a known class.

        Raises ValueError, one line that names the file.
        """
        try:
            import tokenizers
        except ImportError:
            raise ValueError(
                f"{settings.where} needs the library tokenizers: pip install tokenizers"
            ) from None
        stored = "tokenizer.json" in files
        try:
            built = _stored(files, settings) if stored else build(files, settings)
            _add_tokens(built, settings)
            affixes = _affixes(built, settings)
        except ValueError:
            raise
        except Exception as error:  # the library's own
            name = f"{settings.where}/tokenizer.json" if stored else f"the vocabulary in {settings.where}"
            raise ValueError(f"{name} is damaged: {_line(error)}") from None
        pairs = isinstance(built.tokenizer.model, tokenizers.models.BPE)
        forced = settings.flag(
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False
        )
        cleans_up = settings.flag("clean_up_tokenization_spaces", False) and (forced or not pairs)
        return cls(built.tokenizer, affixes, cleans_up)

    @property
    def size(self) -> int:
        """Tokens, with those added."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int | None:
        """None if there is no such token."""
        return self.tokenizer.token_to_id(token)

    def encode(self, text: str, *, written: bool) -> list[int]:
        """Ids with the special tokens around them, as a label (`written`) or as what is read."""
        before, behind = self.affixes[written] if self.affixes else ((), ())
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=self.affixes is None).ids
        except Exception as error:  # the library's own: a vocabulary may have no unknown token
            raise ValueError(f"text {text!r} has no tokens: {_line(error)}") from None
        return [*before, *ids, *behind]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text without special tokens; ids that there are not are left out."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return clean_up(text) if self.cleans_up else text


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _stored(files: Mapping[str, bytes], settings: Settings) -> Built:
    """tokenizer.json, with the two switches that transformers reads from the settings first."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    fields = read_object(files, "tokenizer.json", settings.where)
    _check_charsmaps(fields.get("normalizer"))
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if settings.kind == "BertTokenizer" and isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        ours = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
        for name, option in {**ours, "strip_accents": "strip_accents"}.items():
            if name in settings.fields:
                setattr(tokenizer.normalizer, option, settings.fields[name])
    prefix = settings.fields.get("add_prefix_space")
    bytes_level = isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)
    if bytes_level and isinstance(prefix, bool) and settings.kind in ("GPT2Tokenizer", "RobertaTokenizer"):
        tokenizer.pre_tokenizer.add_prefix_space = prefix
    return Built(tokenizer, before=None)


def _check_charsmaps(normalizer: Any) -> None:
    """The library ends the thread, with pages on stderr, at a damaged one in a file; alone it raises."""
    from tokenizers.normalizers import Precompiled

    for part in _parts(normalizer):
        if part.get("type") == "Precompiled":
            try:
                Precompiled(base64.b64decode(str(part.get("precompiled_charsmap")), validate=True))
            except binascii.Error as error:
                raise RuntimeError(f"precompiled_charsmap: {error}") from None


def _parts(normalizer: Any) -> Iterator[dict[str, Any]]:
    if isinstance(normalizer, dict):
        yield normalizer
        for part in normalizer.get("normalizers") or ():
            yield from _parts(part)


def _add_tokens(built: Built, settings: Settings) -> None:
    """What the settings name and the tokenizer does not know yet, in transformers' order."""
    from tokenizers import AddedToken

    def library(token: Added) -> Any:
        flags = {name: value for name, value in vars(token).items() if name != "content"}
        return AddedToken(token.content, **flags)

    known = built.tokenizer.get_added_tokens_decoder()
    alike = {repr(token) for token in known.values()}
    tokens = [token for token in settings.added.values() if repr(library(token)) not in alike]
    present = {token.content for token in (*known.values(), *tokens)}
    for token in (*settings.named.values(), *(settings.extra or built.extra or settings.also)):
        if token.content not in present:
            present.add(token.content)
            tokens.append(token)
    built.tokenizer.add_tokens([library(token) for token in tokens])


def _affixes(built: Built, settings: Settings) -> tuple[Affixes, Affixes] | None:
    """Of what is read and of what is written."""

    def ids(*tokens: str) -> tuple[int, ...]:
        found = [built.tokenizer.token_to_id(token) for token in tokens]
        if None in found:
            raise ValueError(
                f"{settings.where}: the token {tokens[found.index(None)]!r} is not in the vocabulary"
            )
        return tuple(found)

    if settings.kind not in ("MBartTokenizer", "MBart50Tokenizer"):
        if built.before is None:
            return None
        around = ids(*built.before), ids(*built.behind)
        return around, around
    end = settings.token("eos_token")
    source = settings.fields.get("src_lang") or "en_XX"
    target = settings.fields.get("tgt_lang") or source
    if settings.kind == "MBartTokenizer":  # a target's language is the decoder's start token
        return ((), ids(end, source)), ((), ids(end))
    return (ids(source), ids(end)), (ids(target), ids(end))
