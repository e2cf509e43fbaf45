"""Make tokenizers/: tiny tokenizers as checkpoint folders have them, and what transformers makes of texts with them.

    python -m tests.golden.make_tokenizers     # needs transformers, tokenizers, sentencepiece, and nothing of vitjax

A folder has the files that a published model of its kind has, and expected.json: tokens of texts.json on the side that
is read and on the side that is written, and texts of tokens.
"""

import contextlib
import io
import json
import logging
import random
import shutil
from pathlib import Path

import sentencepiece
import transformers
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as splitters
from transformers import AutoTokenizer

FOLDER = Path(__file__).parent / "tokenizers"
LINES = """The quick brown fox jumps over the lazy dog, and the dog doesn't mind.
A man rides a red bicycle past an old café on the corner of the street.
Der Vogel fliegt über den grünen See; die Straße ist naß und kühl.
Le garçon a mangé une crêpe à la crème brûlée près de l'école.
Two cats are sleeping on the sofa, they are tired. Aren't they?
日本語の文章です。東京は大きい町です。
Привет, мир! Как дела сегодня?
"I can't do that," she said, "because it's 3.14159 metres wide..."
Numbers: 0 1 2 3 4 5 6 7 8 9, prices: $12.50, dates: 2024-05-17.
email@example.com wrote: let's meet at 10:30 a.m. (or not)!""".splitlines()
TEXTS = [
    "",
    " ",
    "A man rides a red bicycle past the lazy dog.",
    "  Two  cats   are tired ,  they don 't mind . ",
    "Straße, crème brûlée, cafe\u0301, GARÇON; \ufb01rst",
    "日本語です。東京 ok",
    "Привет, мир!\tКак\nдела?",
    "smile \U0001f600\U0001f60e ok \U0001f44b\U0001f3fd",
    "the</s>dog <s> a <pad> <unk>fox <mask> [CLS] cat[SEP] [MASK]<|endoftext|>x <extra_id_0> y <extra_id_7>",
    ">>fra<< The dog",
    ">>xyz<< the fox >>deu<< dog",
    "<s_menu> <s_name>cafe</s_name> 12.50</s_menu>",
    "It's 3.14159 , isn 't it ? \"No\" ! we 've ' s",
    "half \u00bd\u2026 full\uff21\u3000width\u00a0space\u200bnone",
    "\u2581under\u2581\u2581line \ufffd en_XX fr_XX dog",
]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
# A few of the rules of SentencePiece's nmt_nfkc, whose table is 240 kB.
RULES = {
    "\ufb01": "fi",
    "\u00bd": "1/2",
    "\u2026": "...",
    "\uff21": "A",
    "\u3000": " ",
    "\u00a0": " ",
    "e\u0301": "é",
    "\t": " ",
    "\n": " ",
}


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / "texts.json").write_text(json.dumps(TEXTS, indent=0) + "\n")
    for build in CASES:
        folder = FOLDER / build.__name__
        folder.mkdir()
        build(folder)
        record(folder)
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    print(f"{len(CASES)} cases, {size / 1000:.0f} kB")


def record(folder: Path) -> None:
    """expected.json: what transformers' AutoTokenizer makes of the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for text in TEXTS if not unlike(tokenizer, text)]
    source = [tokenizer(text).input_ids for text in texts]
    target = [tokenizer(text_target=text).input_ids for text in texts]
    generator = random.Random(folder.name)
    tokens = [*source, *target] + [
        [generator.randrange(len(tokenizer)) for _ in range(generator.randrange(1, 16))] for _ in range(12)
    ]
    tokens = [list(row) for row in dict.fromkeys(map(tuple, tokens))]
    expected = {
        "made_with": f"transformers {transformers.__version__} {type(tokenizer).__name__}",
        "vocab_size": len(tokenizer),
        **{name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
        "texts": [TEXTS.index(text) for text in texts],
        "source": source,
        "target": "as source" if target == source else target,
        "tokens": tokens,
        "decoded": tokenizer.batch_decode(tokens, skip_special_tokens=True),
    }
    lines = [f'"{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in expected.items()]
    (folder / "expected.json").write_text("{" + ",\n".join(lines) + "}\n")


def unlike(tokenizer, text: str) -> bool:
    """Whether vitjax knowingly differs: this MBartTokenizer leaves out the normalization that the file asks for."""
    return type(tokenizer).__name__ == "MBartTokenizer" and any(
        rule in text for rule in RULES if not rule.isspace()
    )


def write(folder: Path, **files) -> None:
    """`tokenizer_config={...}` becomes tokenizer_config.json."""
    for name, fields in files.items():
        (folder / f"{name}.json").write_text(json.dumps(fields, ensure_ascii=False) + "\n")


def byte_pairs(folder: Path, special: list[str]) -> None:
    """vocab.json and merges.txt of some 330 byte-level tokens."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(LINES, vocab_size=340, min_frequency=2, special_tokens=special)
    tokenizer.save_model(str(folder))


def pieces(**options) -> bytes:
    """A SentencePiece model of some 170 pieces."""
    out, rules = io.BytesIO(), Path("rules.tsv")
    with contextlib.chdir(FOLDER):  # the model keeps the path
        rules.write_text("".join(f"{codes(key)}\t{codes(value)}\n" for key, value in RULES.items()))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES),
            model_writer=out,
            normalization_rule_tsv=str(rules),
            character_coverage=1.0,
            minloglevel=2,
            **{"vocab_size": 400, "hard_vocab_limit": False, **options},
        )
        rules.unlink()
    return out.getvalue()


def codes(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


def resave(folder: Path, build) -> None:
    """What transformers saves of a tokenizer that it read from `build`'s files."""
    raw = folder / "raw"
    raw.mkdir()
    build(raw)
    AutoTokenizer.from_pretrained(raw).save_pretrained(folder)
    (folder / "config.json").write_text((raw / "config.json").read_text())
    for name in "tokenizer", "vocab":
        if (folder / f"{name}.json").exists():  # without the spaces
            write(folder, **{name: json.loads((folder / f"{name}.json").read_text())})
    shutil.rmtree(raw)


def image_to_text(folder: Path, kind: str, **ids: int) -> None:
    """The config.json of a VisionEncoderDecoderModel."""
    write(folder, config={"model_type": "vision-encoder-decoder", "decoder": {"model_type": kind, **ids}})


def gpt2_files(folder: Path) -> None:
    byte_pairs(folder, ["<|endoftext|>"])
    image_to_text(folder, "gpt2", bos_token_id=0, eos_token_id=0, pad_token_id=0)
    write(folder, tokenizer_config={"model_max_length": 1024, "tokenizer_class": "GPT2Tokenizer"})


def gpt2_json(folder: Path) -> None:
    resave(folder, gpt2_files)


def gpt2_added(folder: Path) -> None:
    """Tokens added later, as an older transformers saved them."""
    gpt2_files(folder)
    size = len(json.loads((folder / "vocab.json").read_text()))
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "add_bos_token": True}
    write(folder, tokenizer_config=settings | {"clean_up_tokenization_spaces": True})
    write(folder, added_tokens={"<s_menu>": size, "</s_menu>": size + 1, "[PAD]": size + 2})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, special_tokens_map=names | {"pad_token": "[PAD]"})


def trocr_files(folder: Path) -> None:
    byte_pairs(folder, ROBERTA)
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    tokens = {f"{name}_token": MASK | {"content": token, "lstrip": False} for name, token in names.items()}
    tokens["mask_token"] = MASK
    settings = {name: token | {"__type": "AddedToken"} for name, token in tokens.items()}
    settings |= {"errors": "replace", "add_prefix_space": False, "tokenizer_class": "RobertaTokenizer"}
    image_to_text(folder, "trocr", decoder_start_token_id=2, eos_token_id=2, pad_token_id=1)
    write(folder, special_tokens_map=tokens, tokenizer_config=settings)


def trocr_json(folder: Path) -> None:
    resave(folder, trocr_files)


def trocr_added(folder: Path) -> None:
    """Tokens in tokenizer_config.json, as transformers 4.34 and later saved them; some take their spaces along."""
    byte_pairs(folder, ROBERTA)
    size = len(json.loads((folder / "vocab.json").read_text()))
    plain = MASK | {"lstrip": False, "normalized": False, "special": True}
    tokens = {str(i): plain | {"content": token} for i, token in enumerate(ROBERTA)}
    tokens["4"]["lstrip"] = True
    tokens[str(size)] = plain | {"content": "<s_menu>", "lstrip": True, "rstrip": True}
    tokens[str(size + 1)] = plain | {"content": "dog", "single_word": True, "special": False}
    tokens[str(size + 2)] = plain | {"content": "</s_menu>", "special": False}
    settings = {"added_tokens_decoder": tokens, "additional_special_tokens": ["<s_menu>"]}
    write(folder, tokenizer_config=settings | {"tokenizer_class": "RobertaTokenizer"})
    write(folder, special_tokens_map={"bos_token": "<unk>"})  # not read any more
    image_to_text(folder, "roberta", bos_token_id=0, eos_token_id=2, pad_token_id=1)


def bart_files(folder: Path) -> None:
    """No settings at all: the model's type says it."""
    byte_pairs(folder, ROBERTA)
    write(folder, config={"model_type": "bart", "decoder_start_token_id": 2, "forced_eos_token_id": 2})


def bert_files(folder: Path) -> None:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in word_pieces(lowercase=True)))
    write(folder, config={"model_type": "bert"}, tokenizer_config={"model_max_length": 512})


def bert_cased_json(folder: Path) -> None:
    def build(raw: Path) -> None:
        (raw / "vocab.txt").write_text("".join(f"{token}\n" for token in word_pieces(lowercase=False)))
        settings = {"do_lower_case": False, "strip_accents": False, "clean_up_tokenization_spaces": True}
        write(raw, tokenizer_config=settings | {"tokenizer_class": "BertTokenizerFast"})
        write(raw, config={"model_type": "bert"})

    resave(folder, build)
    # What the settings say goes before the file.
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] |= {"lowercase": True, "strip_accents": None}
    write(folder, tokenizer=tokenizer)


def word_pieces(lowercase: bool) -> list[str]:
    """The characters, the commonest words and a few endings; `tokenizers`' trainer chooses others each time."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=lowercase), splitters.BertPreTokenizer()
    words = [word for line in LINES for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))]
    common = sorted(set(words), key=lambda word: (-words.count(word), word))[:40]
    letters = sorted({letter for word in words for letter in word})
    endings = ["s", "ed", "es", "ng", "er", "ow", "og", "en"]
    return list(dict.fromkeys([*BERT, *letters, *common, *(f"##{each}" for each in [*letters, *endings])]))


def t5_files(folder: Path) -> None:
    (folder / "spiece.model").write_bytes(pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 100}
    settings["additional_special_tokens"] = [f"<extra_id_{i}>" for i in range(100)]
    write(folder, config={"model_type": "t5", "decoder_start_token_id": 0})
    write(folder, tokenizer_config=settings | {"tokenizer_class": "T5Tokenizer"})


def t5_bare(folder: Path) -> None:
    """mT5 and its like have no settings but these."""
    model = pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, user_defined_symbols=["<s_menu>"])
    (folder / "spiece.model").write_bytes(model)
    write(folder, config={"model_type": "t5"})
    write(folder, tokenizer_config={"extra_ids": 0, "tokenizer_class": "T5Tokenizer"})


def t5_json(folder: Path) -> None:
    resave(folder, t5_files)


def xlm_roberta_files(folder: Path) -> None:
    (folder / "sentencepiece.bpe.model").write_bytes(pieces())
    mask = MASK | {"__type": "AddedToken"}
    image_to_text(folder, "trocr", decoder_start_token_id=2)
    write(folder, tokenizer_config={"tokenizer_class": "XLMRobertaTokenizer", "mask_token": mask})
    write(folder, special_tokens_map={"bos_token": "<s>", "eos_token": "</s>", "mask_token": MASK})


def donut_json(folder: Path) -> None:
    """Tokens for fields, added to XLM-RoBERTa's."""
    resave(folder, xlm_roberta_files)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<s_menu>"), "</s_menu>"])
    tokenizer.add_tokens(["<s_name>", "</s_name>"])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=20, pad_id=1, pad_token="<pad>")
    extra = {"additional_special_tokens": ["<s_menu>", "</s_menu>"]}
    write(folder, tokenizer=json.loads(tokenizer.to_str()))
    write(folder, tokenizer_config=extra | {"tokenizer_class": "XLMRobertaTokenizerFast"})
    write(folder, special_tokens_map=extra | {"pad_token": "<pad>", "eos_token": "</s>"})


def mbart_files(folder: Path) -> None:
    (folder / "sentencepiece.bpe.model").write_bytes(pieces())
    write(folder, config={"model_type": "mbart", "decoder_start_token_id": 178})  # fr_XX
    settings = {"tokenizer_class": "MBartTokenizer", "src_lang": "en_XX", "tgt_lang": "fr_XX"}
    write(folder, tokenizer_config=settings)


def mbart_json(folder: Path) -> None:
    resave(folder, mbart_files)


def mbart50_files(folder: Path) -> None:
    (folder / "sentencepiece.bpe.model").write_bytes(pieces())
    write(folder, config={"model_type": "mbart", "decoder_start_token_id": 2})
    settings = {"tokenizer_class": "MBart50Tokenizer", "src_lang": "fr_XX", "tgt_lang": "en_XX"}
    write(folder, tokenizer_config=settings)


def marian_files(folder: Path) -> None:
    """A multilingual target, and a vocabulary in an order of its own with pieces of both sides; some have no id."""
    source, target = sides(folder)
    words = sorted({*words_of(source), *words_of(target)} - {"<s>", "</s>", "<unk>", "\u2581mind", "7"})
    vocabulary = ["</s>", "<unk>", *words, ">>fra<<", ">>deu<<", "<pad>"]
    write(folder, vocab={word: i for i, word in enumerate(vocabulary)})
    settings = {"source_lang": "en", "target_lang": "mul", "sp_model_kwargs": {}}
    settings |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write(folder, tokenizer_config=settings | {"tokenizer_class": "MarianTokenizer"})
    pad = len(vocabulary) - 1
    ids = {"decoder_start_token_id": pad, "pad_token_id": pad, "eos_token_id": 0}
    write(folder, config={"model_type": "marian", **ids})


def marian_saved(folder: Path) -> None:
    resave(folder, marian_files)


def marian_separate(folder: Path) -> None:
    """A vocabulary for each side."""
    source, target = sides(folder)
    special = ["</s>", "<unk>", "<pad>"]
    for name, model in ("vocab", source), ("target_vocab", target):
        words = [word for word in words_of(model) if word not in ("<s>", "</s>", "<unk>")]
        write(folder, **{name: {word: i for i, word in enumerate([*special, *sorted(words)])}})
    settings = {"separate_vocabs": True, "clean_up_tokenization_spaces": True}
    write(folder, tokenizer_config=settings | {"tokenizer_class": "MarianTokenizer"})
    ids = {"decoder_start_token_id": 2, "pad_token_id": 2, "eos_token_id": 0}
    write(folder, config={"model_type": "marian", **ids})


def sides(folder: Path) -> tuple[bytes, bytes]:
    """source.spm and target.spm."""
    source, target = pieces(), pieces(model_type="bpe", vocab_size=210, hard_vocab_limit=True)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    return source, target


def words_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def generic_json(folder: Path) -> None:
    """Any tokenizer.json, of no class that transformers knows."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = splitters.Whitespace()
    tokenizer.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=BERT))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    image_to_text(folder, "bart")
    write(folder, tokenizer=json.loads(tokenizer.to_str()))
    settings = {"pad_token": "[PAD]", "eos_token": "[SEP]", "bos_token": "[CLS]"}
    settings |= {"clean_up_tokenization_spaces": True, "tokenizer_class": "PreTrainedTokenizerFast"}
    write(folder, tokenizer_config=settings)


CASES = [
    gpt2_files, gpt2_json, gpt2_added, trocr_files, trocr_json, trocr_added, bart_files, bert_files,
    bert_cased_json, t5_files, t5_bare, t5_json, xlm_roberta_files, donut_json, mbart_files, mbart_json,
    mbart50_files, marian_files, marian_saved, marian_separate, generic_json,
]  # fmt: skip

if __name__ == "__main__":
    main()
