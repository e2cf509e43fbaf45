"""`make demo`: train the image-to-text Transformer on handwritten digits, read held-out strings, show how it went."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import vitjax
from vitjax.analysis.pictures import draw_loss, draw_reading, draw_transcriptions
from vitjax.api import load
from vitjax.commands.overrides import apply_overrides
from vitjax.data.pipeline import eval_batches
from vitjax.data.sources import build_source
from vitjax.decoding.generate import decode, encode
from vitjax.model import Model
from vitjax.models.config import image_encoder
from vitjax.parallel.mesh import make_mesh
from vitjax.training.config import Config
from vitjax.training.evaluation import Evaluation, evaluate, make_generation
from vitjax.training.loop import fit
from vitjax.training.recipe import load_config
from vitjax.training.streams import eval_stream

BEAMS = 4
TIMED_BATCH = 64


def main(arguments: list[str] | None = None) -> None:
    """Train (or go on, if interrupted), evaluate, time, draw, and write `summary.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digit_strings.py")
    parser.add_argument("--directory", default="runs/demo")
    options, overrides = parser.parse_known_args(arguments)
    config = apply_overrides(load_config(options.config), overrides, prog="vitjax.demo")
    directory = Path(options.directory)

    result = fit(config, directory, resume=True)
    if result.stopped:
        sys.exit(
            f"stopped by {result.stopped.name} after step {int(result.state.step)}; `make demo` goes on from there"
        )

    model = load(directory)
    greedy = score(model, config, 1)
    beam = score(model, config, BEAMS)
    assert greedy.exact_match is not None and beam.exact_match is not None
    times = timings(model, config)
    summary = {
        "exact_match_greedy": greedy.exact_match.value,
        "exact_match_beam": beam.exact_match.value,
        "exact_match_greedy_interval": greedy.exact_match[1:3],
        "exact_match_beam_interval": beam.exact_match[1:3],
        "character_error_rate_greedy": greedy.character_error_rate,
        "character_error_rate_beam": beam.character_error_rate,
        "num_beams": BEAMS,
        "test_strings": greedy.exact_match.total,
        "train_seconds": round(result.train_seconds, 1),
        "steps": config.train.steps,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        **times,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"vitjax": vitjax.__version__, "jax": jax.__version__},
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(model, config, directory, greedy)
    show(summary, directory)


def score(model: Model, config: Config, num_beams: int) -> Evaluation:
    """All held-out strings, read with so many beams."""
    mesh = make_mesh(config.mesh)
    with eval_stream(config, mesh) as batches:
        return evaluate(
            config,
            model.definition,
            model.params,
            model.stats,
            batches,
            mesh=mesh,
            tokenizer=model.tokenizer,
            generation=make_generation(config.generation, num_beams),
        )


def timings(model: Model, config: Config) -> dict[str, float]:
    """Milliseconds for one batch: the encoder, which reads all patches at once, and the decoder, token by token."""
    batch = next(iter(eval_batches(config.data, batch_size=TIMED_BATCH)))
    assert model.preprocess is not None
    images = model.preprocess.normalize(batch["image"])
    encoded = encode(model.definition, model.params, images, stats=model.stats)

    def generation(num_beams: int) -> Callable[[], Any]:
        options = make_generation(config.generation, num_beams)
        return lambda: decode(model.definition, model.params, encoded, stats=model.stats, config=options)

    def per_token(options: Callable[[], Any]) -> float:
        return median_ms(options) / (int(options().lengths.max()) - 1)

    return {
        "batch": TIMED_BATCH,
        "encode_ms": median_ms(lambda: encode(model.definition, model.params, images, stats=model.stats)),
        "teacher_forced_ms": median_ms(lambda: model.logits(images, batch["tokens"][:, :-1])),
        "decode_ms_per_token": per_token(generation(1)),
        "decode_ms_per_token_beam": per_token(generation(BEAMS)),
    }


def median_ms(call: Callable[[], Any], repeats: int = 15) -> float:
    """Median wall time of a compiled call."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times), 3)


def draw(model: Model, config: Config, directory: Path, evaluation: Evaluation) -> None:
    """`loss.png`, `transcriptions.png` (with mistakes, if there are any) and `attention.png`."""
    draw_loss(directory / "loss.png", directory / "metrics.jsonl")
    source = build_source(config.data, config.data.eval_split)
    read, truth = evaluation.predictions, evaluation.references
    wrong = [i for i in range(len(read)) if read[i] != truth[i]][:4]
    shown = (wrong + [i for i in range(len(read)) if i not in wrong])[:16]
    images = np.stack([source[i]["image"] for i in shown])
    draw_transcriptions(
        directory / "transcriptions.png", images, [read[i] for i in shown], [truth[i] for i in shown]
    )
    longest = sorted(range(len(read)), key=lambda i: (read[i] != truth[i], -len(truth[i])))[:3]
    images = np.stack([source[i]["image"] for i in longest])
    out = model.generate(images, num_beams=1, return_attention=True)
    texts = [row[0] for row in out.text()]
    assert out.attention is not None
    encoder = image_encoder(config.model)
    draw_reading(directory / "attention.png", images, texts, np.asarray(out.attention[:, 0]), encoder)


def show(summary: dict[str, Any], directory: Path) -> None:
    """The table of accuracy and time."""
    console = Console()
    table = Table(
        title=f"{summary['test_strings']:,} held-out strings, digits never trained on", title_justify="left"
    )
    table.add_column("")
    table.add_column("greedy", justify="right")
    table.add_column(f"{summary['num_beams']} beams", justify="right")

    def both(name: str, form: str) -> list[str]:
        return [format(summary[f"{name}_{kind}"], form) for kind in ("greedy", "beam")]

    table.add_row("whole strings right", *both("exact_match", ".2%"))
    table.add_row(
        "  95 % interval",
        *("{:.2%} - {:.2%}".format(*summary[f"exact_match_{kind}_interval"]) for kind in ("greedy", "beam")),
    )
    table.add_row("character error rate", *both("character_error_rate", ".2%"))
    encoder, tokens = f"{summary['encode_ms']:.2f} ms", f"{summary['teacher_forced_ms']:.2f} ms"
    table.add_row(f"{summary['batch']} images: encoder, all patches at once", encoder, encoder)
    table.add_row("  and decoder in training, all at once", tokens, "")
    table.add_row(
        "  and decoder step by step, each token",
        f"{summary['decode_ms_per_token']:.2f} ms",
        f"{summary['decode_ms_per_token_beam']:.2f} ms",
    )
    console.print(table)
    console.print(
        f"trained in {summary['train_seconds']:.0f} s, {summary['steps']:,} steps, {summary['parameters']:,} parameters"
    )
    console.print(f"pictures, metrics, checkpoint and summary.json are in {directory}")


if __name__ == "__main__":
    main()
