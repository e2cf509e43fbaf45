"""Tokenizers from the vocabulary files of folders without a tokenizer.json, as transformers 5 builds them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vitjax.data.tokenizers.sentencepiece_model import SPACE, Pieces, read_pieces
from vitjax.data.tokenizers.settings import Added, Settings, read_object

_LANGUAGES = tuple(
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN".split()
)
_LANGUAGES_50 = _LANGUAGES + tuple(
    "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN "
    "te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI".split()
)
MOST_SENTINELS = 10_000
"""T5 has 100; a made-up number must not fill the memory."""


class Built(NamedTuple):
    """A `tokenizers.Tokenizer` and what goes around a text.

    Attributes:
      before, behind: tokens; None where the tokenizer itself adds them.
      extra: tokens to add, if the settings name none.
    """

    tokenizer: Any
    before: tuple[str, ...] | None = ()
    behind: tuple[str, ...] = ()
    extra: tuple[Added, ...] = ()


def build(files: Mapping[str, bytes], settings: Settings) -> Built:
    """The tokenizer of a class that is known; ValueError if it is not, or its files are missing or damaged."""
    if settings.kind not in _BUILDERS:
        raise ValueError(
            f"{settings.where} has no tokenizer.json, and without it {settings.kind or 'an unnamed class'} is not read "
            f"(only {', '.join(sorted([*_BUILDERS, 'MarianTokenizer']))}): save_pretrained writes one"
        )
    needed, builder = _BUILDERS[settings.kind]
    if missing := [name for name in needed if name not in files]:
        raise ValueError(
            f"{settings.where} has no {missing[0]} (and no tokenizer.json): a {settings.kind} needs it"
        )
    return builder(files, settings)


def _byte_pairs(files: Mapping[str, bytes], settings: Settings) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = read_object(files, "vocab.json", settings.where)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(files["merges.txt"], f"{settings.where}/merges.txt"),
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=settings.flag("add_prefix_space", False)
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(content: bytes, where: str) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_lines(content, where), start=1):
        if line.startswith("#version"):
            continue
        match line.split(" "):
            case [left, right]:
                merges.append((left, right))
            case _:
                raise ValueError(
                    f"{where}, line {number} is {line!r:.80}: expected two tokens with a space between them"
                )
    return merges


def _lines(content: bytes, where: str) -> list[str]:
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8: {error}") from None
    return [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]


def _gpt2(files: Mapping[str, bytes], settings: Settings) -> Built:
    before = (settings.token("bos_token"),) if settings.flag("add_bos_token", False) else ()
    behind = (settings.token("eos_token"),) if settings.flag("add_eos_token", False) else ()
    return Built(_byte_pairs(files, settings), before, behind)


def _roberta(files: Mapping[str, bytes], settings: Settings) -> Built:
    tokenizer = _byte_pairs(files, settings)
    return Built(tokenizer, (settings.token("cls_token"),), (settings.token("sep_token"),))


def _bert(files: Mapping[str, bytes], settings: Settings) -> Built:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = [line.rstrip() for line in _lines(files["vocab.txt"], f"{settings.where}/vocab.txt")]
    vocabulary = {word: token for token, word in enumerate(words)}
    if settings.token("unk_token") not in vocabulary:
        raise ValueError(
            f"{settings.where}/vocab.txt has no {settings.token('unk_token')!r}, which unknown words become"
        )
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=settings.token("unk_token")))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.fields.get("strip_accents"),
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return Built(tokenizer, (settings.token("cls_token"),), (settings.token("sep_token"),))


def _unigram(scores: list[tuple[str, float]], unknown: int, charsmap: bytes, prefix: bool = True) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram(scores, unk_id=unknown, byte_fallback=False))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    scheme = "always" if prefix else "never"
    space = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return tokenizer


def _t5(files: Mapping[str, bytes], settings: Settings) -> Built:
    pieces = read_pieces(files["spiece.model"], f"{settings.where}/spiece.model")
    count = settings.fields.get("extra_ids", 100)
    if not isinstance(count, int) or not 0 <= count <= MOST_SENTINELS:
        raise ValueError(
            f"{settings.where}/tokenizer_config.json: extra_ids is {count!r:.80}: "
            f"expected a whole number up to {MOST_SENTINELS}"
        )
    sentinels = [f"<extra_id_{i}>" for i in range(count)]
    scores = pieces.scores + [(sentinel, 0.0) for sentinel in reversed(sentinels)]
    extra = (*_own(pieces), *map(Added, sentinels))
    return Built(_unigram(scores, 2, pieces.charsmap), (), (settings.token("eos_token"),), extra)


def _xlm_roberta(files: Mapping[str, bytes], settings: Settings) -> Built:
    pieces = read_pieces(files["sentencepiece.bpe.model"], f"{settings.where}/sentencepiece.bpe.model")
    scores = _fairseq(pieces, settings, ())
    tokenizer = _unigram(scores, 3, pieces.charsmap, settings.flag("add_prefix_space", True))
    return Built(tokenizer, (settings.token("bos_token"),), (settings.token("eos_token"),), _own(pieces))


def _mbart(files: Mapping[str, bytes], settings: Settings) -> Built:
    pieces = read_pieces(files["sentencepiece.bpe.model"], f"{settings.where}/sentencepiece.bpe.model")
    extra = (*map(Added, _LANGUAGES), *_own(pieces))
    return Built(_unigram(_fairseq(pieces, settings, _LANGUAGES), 3, pieces.charsmap), extra=extra)


def _mbart50(files: Mapping[str, bytes], settings: Settings) -> Built:
    from tokenizers import Regex, normalizers, pre_tokenizers

    pieces = read_pieces(files["sentencepiece.bpe.model"], f"{settings.where}/sentencepiece.bpe.model")
    tokenizer = _unigram(_fairseq(pieces, settings, _LANGUAGES_50), 3, pieces.charsmap)
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    first = [tokenizer.normalizer] if pieces.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*first, spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    return Built(tokenizer, extra=(*_own(pieces), *map(Added, _LANGUAGES_50)))


def _fairseq(pieces: Pieces, settings: Settings, languages: tuple[str, ...]) -> list[tuple[str, float]]:
    """fairseq's order: four special tokens in place of SentencePiece's three, the pieces, languages, mask."""
    special = (
        settings.token("bos_token", "cls_token"),
        *map(settings.token, ("pad_token", "eos_token", "unk_token")),
    )
    behind = (*languages, settings.token("mask_token"))
    return [(token, 0.0) for token in special] + pieces.scores[3:] + [(token, 0.0) for token in behind]


def _own(pieces: Pieces) -> tuple[Added, ...]:
    return tuple(Added(piece, special=special) for piece, special in pieces.own)


_Builder = Callable[[Mapping[str, bytes], Settings], Built]
_BUILDERS: dict[str, tuple[tuple[str, ...], _Builder]] = {
    "GPT2Tokenizer": (("vocab.json", "merges.txt"), _gpt2),
    "RobertaTokenizer": (("vocab.json", "merges.txt"), _roberta),
    "BertTokenizer": (("vocab.txt",), _bert),
    "T5Tokenizer": (("spiece.model",), _t5),
    "XLMRobertaTokenizer": (("sentencepiece.bpe.model",), _xlm_roberta),
    "MBartTokenizer": (("sentencepiece.bpe.model",), _mbart),
    "MBart50Tokenizer": (("sentencepiece.bpe.model",), _mbart50),
}
