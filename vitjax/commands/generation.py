"""The options of `Model.generate` on a command line, named as in transformers."""

import argparse
from typing import Any

OPTIONS = (
    ("num_beams", int, "1 is greedy"),
    ("num_return_sequences", int, "hypotheses a source, at most the beams"),
    ("length_penalty", float, "scores are sum(log p) / length ** this"),
    ("max_length", int, "longest sequence, begin and end included"),
    ("min_length", int, "shortest sequence, begin and end included"),
    ("no_repeat_ngram_size", int, "so many tokens in a row appear once at most"),
    ("repetition_penalty", float, "above 1, tokens already written are unlikelier"),
    ("temperature", float, "of sampling: below 1 keeps nearer to the likeliest"),
    ("top_k", int, "of sampling: draw from the k likeliest tokens"),
    ("top_p", float, "of sampling: draw from the likeliest that reach this probability"),
    ("rules", str, "of beam search: transformers, t5x, fairseq or ctranslate2"),
    ("cache_dtype", str, "of keys and values: float32, bfloat16 or int8"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but `--sample`, which each command has in its own way: not None where tokens are to be drawn."""
    for name, kind, text in OPTIONS:
        parser.add_argument(_flag(name), type=kind, help=f"{text} (the model's own)")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as `Model.generate` takes them."""
    given = {name: getattr(options, name) for name, *_ in OPTIONS if getattr(options, name) is not None}
    return given if options.sample is None else {"num_beams": 1, **given, "do_sample": True}


def given_flags(options: argparse.Namespace) -> list[str]:
    """Those that were given, as they stand on the command line."""
    names = [*(name for name, *_ in OPTIONS), "sample"]
    return [_flag(name) for name in names if getattr(options, name) is not None]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
