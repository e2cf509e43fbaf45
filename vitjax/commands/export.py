"""`vitjax export`: a model as a program that needs jax alone."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitjax.commands.generation import add_options, given_flags, given_options

EXAMPLE = """examples:
  vitjax export runs/digits_vit digits.stablehlo
  vitjax export vit-base-patch16-224/ vit.stablehlo --image-size 384 256 --dtype bfloat16
  vitjax export runs/demo demo.stablehlo --num-beams 5 --max-length 8 --platforms cpu,tpu
"""


def main(arguments: Sequence[str]) -> int:
    """Write the program, the JSON file that describes it, and the tokenizer's files."""
    options = _parser().parse_args(arguments)
    path = Path(options.program)
    # What can be refused is refused before the model is read.
    if path.is_dir():
        raise ValueError(f"{path} is a folder: expected the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")

    from vitjax.api import load
    from vitjax.export import export

    model = load(options.run)
    if (flags := given_flags(options)) and not model.writes:
        raise ValueError(f"{options.run} names classes: it has no use for {flags[0]}")
    about = export(
        model,
        path,
        platforms=options.platforms.split(","),
        image_size=tuple(options.image_size) if options.image_size else None,
        dtype=options.dtype,
        **given_options(options),
    )
    print(json.dumps(about) if options.json else _in_words(path, about))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitjax export",
        description="Write a model as one program, for any batch, that jax.export loads without vitjax or flax: pixels "
        "or tokens to logits, or to whole sequences. FILE.json beside it says what it takes and gives.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run, a saved model, a checkpoint, or a hub id")
    parser.add_argument("program", metavar="FILE", help="where to write it: model.stablehlo")
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="where it is to run, of cpu, cuda, rocm, tpu (cpu,cuda,tpu)",
    )
    parser.add_argument(
        "--image-size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of the images (the model's own)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        help="of the parameters in the file (float32); bfloat16 and float16 halve it and round them",
    )
    add_options(parser)
    parser.add_argument(
        "--sample",
        action="store_const",
        const=True,
        help="draw each token at random: the program takes a seed as well",
    )
    parser.add_argument("--json", action="store_true", help="print what FILE.json says")
    return parser


def _in_words(path: Path, about: dict[str, Any]) -> str:
    program = about["program"]
    lines = [
        f"{path}: {program['bytes'] / 1e6:.1f} MB with {program['parameters']['count']:,} parameters, for "
        f"{', '.join(program['platforms'])}; it needs jax {about['made_with']['jax']} or newer"
    ]
    for way in ("inputs", "outputs"):
        arrays = (f"{a['name']} {a['dtype']}[{', '.join(map(str, a['shape']))}]" for a in about[way])
        lines.append(f"{way}: {', '.join(arrays)}")
    others = [f"{path}.json", *([f"{path}.tokenizer"] if about["tokenizer"] else [])]
    return "\n".join([*lines, f"beside it: {', '.join(others)}"])
