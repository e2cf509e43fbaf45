"""Hold vitjax's tokenizers against transformers', on random texts and tokens: a line for each kind of folder.

    python -m tools.parity_text [--texts 500] [FOLDER ...]     # `make parity` runs it; needs transformers

FOLDER: checkpoints to hold against it; the tokenizers under tests/golden if none is given. Ends with status 1 if one id
or one character differs.
"""

import argparse
import random
import sys
from pathlib import Path

from tests.golden.make_tokenizers import BERT, FOLDER, LINES, ROBERTA, RULES, unlike
from vitjax.weights.tokenizer import read_tokenizer

PARTS = [
    *(word for line in LINES for word in line.split()),
    *(line[start : start + 4] for line in LINES for start in range(0, 40, 7)),
    *ROBERTA, *BERT, *RULES, *"'.,!?", "<|endoftext|>", "<extra_id_0>", "<extra_id_99>", "<s_menu>", "</s_menu>",
    ">>fra<<", ">>", "<<", "en_XX", "fr_XX", "'s", "n't", "'ve", "\u2581", "\u0000", "\u0007", "\u200b", "\u2028",
    "\ufeff", "\ufffd", "\U0001f600", "\U0001f44b\U0001f3fd", "\u0130", "\u01c5", "\u0e17", "\r\n", " ", "  ",
]  # fmt: skip


def differences(folder: Path, count: int) -> tuple[str, int, str]:
    """transformers' class, texts and rows of tokens compared, and the first that differs, or ""."""
    import transformers

    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), read_tokenizer(folder)
    if ours is None:
        raise ValueError(f"{folder} has no tokenizer")
    kind, draw = type(theirs).__name__, random.Random(folder.name)
    compared = 0
    for _ in range(count):
        text = "".join(draw.choice(PARTS) + draw.choice(["", " "]) for _ in range(draw.randrange(14)))
        row = [draw.randrange(len(theirs)) for _ in range(draw.randrange(20))]
        source = theirs(text).input_ids
        if not unlike(theirs, text):
            label = theirs(text_target=text).input_ids
            label = label[:-1] if kind == "MBartTokenizer" else label
            label = [ours.bos, *label, *([] if label[-1:] == [ours.eos] else [ours.eos])]
            if ours.encode_source(text).tolist() != source or ours.encode(text).tolist() != label:
                return kind, compared, f"text {text!r}"
        for tokens in row, source:
            if ours.decode(tokens) != theirs.decode(tokens, skip_special_tokens=True):
                return kind, compared, f"tokens {tokens}"
        compared += 1
    return kind, compared, "" if ours.vocab_size == len(theirs) else f"{ours.vocab_size} tokens in all"


def main() -> None:
    """The command."""
    import transformers

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="*", type=Path)
    parser.add_argument("--texts", type=int, default=500, metavar="N", help="texts a folder, random ones")
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    good = True
    for folder in given.folder or sorted(path for path in FOLDER.iterdir() if path.is_dir()):
        kind, compared, different = differences(folder, given.texts)
        good &= not different
        print(f"{folder.name:20} {kind:20} {different or f'{compared:,} texts alike'}", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
