"""`vitjax decode`: what a model reads in images or text."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitjax.commands.generation import add_options, given_flags, given_options
from vitjax.commands.results import Printer, ResultsFile, as_json, as_text
from vitjax.commands.sources import find_images, read_lines

if TYPE_CHECKING:
    from vitjax.commands.transcribe import Transcriber
    from vitjax.model import Model

EXAMPLE = """examples:
  vitjax decode runs/demo image.png --num-beams 5 --attention where.png
  vitjax decode runs/demo scans 'more/**/*.jpg' --output scans.jsonl
  vitjax decode runs/demo image.png --sample 0 --num-return-sequences 3 --top-p 0.9
  vitjax decode runs/reverse_words --text "hello" "world" --json
  vitjax decode microsoft/trocr-base-printed line.png
"""


def main(arguments: Sequence[str]) -> int:
    """Print what is read in every image or text given, or write it to a file."""
    options = parser().parse_args(arguments)
    # What can be refused is refused before the model is read.
    sources = _sources(options)
    pictures = _pictures(options, sources) if options.attention else {}
    if options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}: expected at least 1")
    if options.json and options.output:
        raise ValueError("--output writes JSON already: leave --json out")

    from vitjax.api import load
    from vitjax.commands.transcribe import Transcriber

    printer = Printer(as_json if options.json else as_text)
    with ResultsFile(options.output) if options.output else nullcontext(printer) as results:
        model = load(options.run)
        generation = _generation(model, options)
        if isinstance(results, ResultsFile):
            _resume(results, model, generation, options)
        batch_size = min(options.batch_size, len(sources))
        transcriber = Transcriber(model, generation, pictures, batch_size, seed=options.sample)
        return _run(transcriber, sources, results, "images" if options.images else "texts")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vitjax decode",
        description="Write what a model reads in image files (JPEG, PNG, WebP) or in text.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run, a saved model, a checkpoint, or a hub id")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="PATH",
        help="image files; folders, with the images in them and below; quoted patterns, ** for any depth",
    )
    parser.add_argument("--text", nargs="+", metavar="TEXT", help="sources of a text-to-text model")
    parser.add_argument("--text-file", metavar="FILE", help="the same, one a line")
    parser.add_argument("--batch-size", type=int, default=32, help="sources at a time (32)")
    add_options(parser)
    parser.add_argument(
        "--sample",
        metavar="SEED",
        type=int,
        help="draw each token at random; a source and a seed always draw alike",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a source")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write such objects to a file, one a line; the same command again goes on where it stopped",
    )
    parser.add_argument(
        "--attention",
        metavar="PNG",
        help="draw where each token was read, or what spoke for the class: a .png file for one image, a folder for "
        "several",
    )
    return parser


def _sources(options: argparse.Namespace) -> list[str]:
    given = [options.images, options.text, options.text_file]
    if sum(map(bool, given)) != 1 or not all(options.text or ["-"]):
        raise ValueError("give one of image paths, --text and --text-file, and no empty text")
    if options.images:
        return find_images(options.images)
    if options.attention:
        raise ValueError("--attention draws on images; there are none")
    return list(dict.fromkeys(options.text)) if options.text else read_lines(options.text_file)


def _pictures(options: argparse.Namespace, images: Sequence[str]) -> dict[str, Path]:
    """The file for each image's attention; in a folder they lie as the images do in the folder they share."""
    where = Path(options.attention)
    if where.suffix.lower() == ".png" and not where.is_dir():
        if len(images) > 1:
            raise ValueError(f"--attention {where} is one file for {len(images):,} images: give a folder")
        if not where.parent.is_dir():
            raise ValueError(f"--attention {where}: there is no folder {where.parent}")
        return {images[0]: where}
    for folder in filter(os.path.isdir, options.images):
        if Path(os.path.abspath(where)).is_relative_to(os.path.abspath(folder)):
            raise ValueError(f"--attention {where} lies in {folder}, which is read: give a folder outside it")
    where.mkdir(parents=True, exist_ok=True)
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
    places = {image: Path(where, os.path.relpath(image, shared)) for image in images}
    return {
        image: place if place.suffix == ".png" else place.with_name(f"{place.name}.png")
        for image, place in places.items()
    }


def _generation(model: "Model", options: argparse.Namespace) -> dict[str, Any]:
    """The given options of `Model.generate`; what the model has no use for is refused."""
    from vitjax.analysis.attention_maps import attentive_encoder
    from vitjax.models.config import reads_images

    images = reads_images(model.config)
    if not model.writes:
        if not options.images:
            raise ValueError(f"{options.run} names classes of images; it reads no text")
        if useless := given_flags(options):
            raise ValueError(f"{options.run} names classes: it has no use for {useless[0]}")
        if options.attention:
            attentive_encoder(model.config)
    elif model.tokenizer is None:
        raise ValueError(f"{options.run} has no tokenizer: what the model writes cannot be told as text")
    elif not images and options.images:
        raise ValueError("this model reads text, not images: use --text or --text-file")
    elif images and not options.images:
        raise ValueError(f"{options.run} reads images, not text")
    if images and model.preprocess is None:
        raise ValueError(
            f"{options.run} has no preprocessor_config.json: images cannot be brought to its size and scale"
        )
    return given_options(options)


def _resume(
    results: ResultsFile, model: "Model", generation: Mapping[str, Any], options: argparse.Namespace
) -> None:
    import vitjax
    from vitjax.decoding.config import GenerationConfig

    settings = {"model": model.fingerprint(), "seed": options.sample}
    if model.writes:
        settings |= dataclasses.asdict(model.generation_config(**generation))
    results.resume(
        settings,
        defaults={**dataclasses.asdict(GenerationConfig()), "seed": None},
        about={"vitjax": vitjax.__version__, "run": options.run},
    )


def _run(
    transcriber: "Transcriber", sources: Sequence[str], results: ResultsFile | Printer, unit: str
) -> int:
    """Decode what is not done yet, and say how it ended."""
    from vitjax.commands.progress import ProgressBar
    from vitjax.training.signals import StopFlag

    same = os.path.abspath if unit == "images" else str
    done = set(map(same, results.done))
    left = [source for source in sources if same(source) not in done]
    before, total = len(results.done), len(results.done) + len(left)
    to_file = isinstance(results, ResultsFile)
    with (
        StopFlag() as stop,
        closing(transcriber.batches(left)) as batches,
        ProgressBar(total, done=before, unit=unit, bar=to_file or not sys.stdout.isatty()) as progress,
    ):
        for records in batches:
            results.append(records)
            progress.advance(len(records))
            if stop and len(results.done) < total:
                break
    if stop.signal is not None and len(results.done) < total:
        how = (
            "the same command goes on from there" if to_file else "with --output FILE it can be gone on with"
        )
        print(
            f"stopped by {stop.signal.name} after {len(results.done):,} of {total:,} {unit}; {how}",
            file=sys.stderr,
        )
        return 128 + stop.signal
    if isinstance(results, ResultsFile):
        print(f"{results.path}: {total:,} {unit}" + (f", {before:,} of them from before" if before else ""))
    if results.errors:
        raise ValueError(
            f"{len(results.errors):,} of {total:,} {unit} could not be read, first: {results.errors[0]}"
        )
    return 0
