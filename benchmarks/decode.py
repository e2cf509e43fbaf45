"""How long a decoded token takes: vitjax beside transformers, the same model and weights, in turn in one process.

    python -m benchmarks.decode                              the whole on CPU: with one thread, then with all cores
    python -m benchmarks.decode --threads 1 --peers none     vitjax alone, one thread
    python -m benchmarks.decode --device gpu                 on a GPU: float32, then bfloat16
    python -m benchmarks.decode --small                      everything at a fraction of the size, in two minutes

The model is a ViT-S/16 at 224 pixels and a decoder of 6 layers of width 256 over 8,000 tokens, with random weights; it
writes as long as it is let (there is no EOS). A step's time is the difference between a long and a short generation of
one round, divided by the steps between them, so that encoder, prompt and start-up fall out; the table has the medians
over the rounds, of times and of ratios. The peers are described in `benchmarks.peers`, the floor in `benchmarks.floor`.

Nothing is timed unless every peer gives vitjax's tokens, greedy and with beams, and its logits within 1e-4. In bfloat16
that is checked with the same weights in float32.

Needs jax, flax, jaxtyping and numpy; for the peers torch and transformers (`make bench` makes such an environment).
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vitjax  # noqa: F401  (its guard against miscompiling jaxlib releases comes first)
from benchmarks.floor import Probes, step_work
from benchmarks.measure import RESULTS, cores, in_turn, keep_to, machine, write
from benchmarks.model import Vitjax, model_config, random_params, with_dtype
from benchmarks.report import report
from vitjax.models.encoder_decoder import EncoderDecoderConfig

PEERS = {"none": (), "eager": ("transformers", "tuned"), "all": ("transformers", "tuned", "compiled")}
TOLERANCE = 1e-4


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, store."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _options(arguments)
    settings = [(threads, dtype) for threads in options.threads for dtype in options.dtype]
    if len(settings) == 1:
        run(options, *settings[0])
        return
    for threads, dtype in settings:  # a process can have one number of threads
        setting = ["--threads", str(threads), "--dtype", dtype]
        part = subprocess.run([sys.executable, "-m", "benchmarks.decode", *arguments, *setting])
        if part.returncode:
            sys.exit(part.returncode)  # it has said why


def run(options: argparse.Namespace, threads: int, dtype: str) -> None:
    """One setting: check that all models are one, time them in turn, print and store."""
    torch = _start(options, threads)
    config = model_config(options.small, max_length=options.tokens + 1)
    size = (options.batch, *config.encoder.image_size, 3)
    images = np.random.default_rng(0).standard_normal(size, np.float32)
    if torch is None:
        params, peers, sameness = random_params(config), {}, {}
    else:
        params, peers, sameness = _peers(options, dtype, config, images, torch)
    ours = Vitjax(with_dtype(config, dtype), params, images)
    models = {"vitjax": ours, **peers}

    rows = [options.batch * beams for beams in options.beams]
    probes = Probes(ours.config.decoder.transformer, rows, torch)
    calls = _calls(models, options) | probes.calls
    print(f"timing {len(calls)} calls in turn, {options.rounds} rounds after one that compiles", flush=True)
    times = in_turn(calls, options.rounds)
    record = {
        "machine": machine(),
        "setting": _setting(options, threads, dtype),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(ours.params)),
        **sameness,
        "encode_ms": {name: statistics.median(times[f"{name} encode"]) for name in _encoders(models)},
        "step_ms": _steps(times, models, options),
        "bandwidth": probes.bandwidth(times),
        "floor": {beams: _floor(ours.config, beams, probes, times, options) for beams in options.beams},
    }
    print(report(record), flush=True)
    name = "decode_small" if options.small else "decode"
    cpu = () if options.device == "gpu" else (f"{threads} thread{'s' if threads > 1 else ''}",)
    print(f"written to {write(name, record, *cpu, dtype, folder=options.results)}")


def check(ours: Any, peers: Mapping[str, Any], beams: Sequence[int], tokens: int) -> float:
    """Largest difference of logits between vitjax and the peers.

    Raises:
      SystemExit: a token differs, or a logit by more than the tolerance.
    """
    difference = 0.0
    for count in beams:
        expected = np.asarray(ours.generate(count, tokens))
        logits = ours.logits(expected)
        for name, peer in peers.items():
            found = peer.generate(count, tokens)
            if not np.array_equal(expected, found):
                row, place = np.argwhere(expected != found)[0]
                raise SystemExit(
                    f"same tokens: NO. {name}, {count} beams, image {row}: token {place} is {found[row, place]}, "
                    f"vitjax has {expected[row, place]}. Nothing was timed"
                )
            # NumPy's maximum keeps NaN, Python's drops it
            difference = float(np.maximum(difference, np.max(np.abs(peer.logits(expected) - logits))))
    if not difference <= TOLERANCE:
        raise SystemExit(f"logits differ by {difference:.1e}, more than {TOLERANCE:.0e}. Nothing was timed")
    return difference


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument(
        "--threads", type=int, nargs="+", help="cores to use, one run for each (1 and all; gpu: all)"
    )
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "bfloat16"], help="one run for each (gpu: both)"
    )
    parser.add_argument("--peers", choices=PEERS, default="all", help="eager: without torch.compile")
    parser.add_argument("--small", action="store_true", help="a small model")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 2, 4, 5, 8, 16])
    parser.add_argument("--peer-beams", type=int, nargs="+", default=[1, 5], help="the peers' part of them")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of the long generation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args(arguments)
    gpu = options.device == "gpu"
    options.threads = options.threads or sorted({len(cores())} if gpu else {1, len(cores())})
    options.dtype = options.dtype or (["float32", "bfloat16"] if gpu else ["float32"])
    if options.peers != "none":
        options.beams = sorted({*options.beams, *options.peer_beams})
    if options.tokens < 2:
        parser.error("--tokens must be 2 or more: a step is a difference of two lengths")
    return options


def _start(options: argparse.Namespace, threads: int) -> Any:
    """Settle threads and device before either framework starts; torch, or None where no peer is to be timed."""
    keep_to(threads)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both frameworks share the device
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 for float32, as in torch
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        raise SystemExit(f"--device gpu: JAX sees {jax.default_backend()} only; install jax[cuda13]")
    if options.peers == "none":
        return None
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        print(f"vitjax alone: for the peers `make bench`, or pip install {' '.join(missing)}")
        return None
    import torch
    import transformers

    if options.device == "gpu" and not torch.cuda.is_available():
        raise SystemExit("--device gpu: this torch sees no GPU; install its CUDA build, or time --peers none")
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    transformers.logging.set_verbosity_error()
    return torch


def _peers(options: argparse.Namespace, dtype: str, config: Any, images: np.ndarray, torch: Any) -> tuple:
    """vitjax's weights, the peers by name, and the proof that all are one model."""
    from benchmarks.peers import Peer, make_model, to_vitjax

    original = make_model(config)
    params = to_vitjax(original)
    device = "cuda" if options.device == "gpu" else "cpu"

    def peers(dtype: str, names: Sequence[str]) -> dict[str, Peer]:
        copies = {name: deepcopy(original).to(device, getattr(torch, dtype)) for name in names}
        made = {name: Peer(name, model, images, options.tokens + 1) for name, model in copies.items()}
        if "compiled" in made and (problem := _problem(made["compiled"], options)):
            print(f"compiled: left out, torch.compile failed with {problem}")
            del made["compiled"]
        return made

    names = PEERS[options.peers]
    timed = peers(dtype, names)
    checked = timed if dtype == "float32" else peers("float32", PEERS["eager"])
    difference = check(Vitjax(config, params, images), checked, options.peer_beams, options.tokens)
    beams = " and ".join("greedy" if b == 1 else f"{b} beams" for b in options.peer_beams)
    print(
        f"same tokens: yes ({beams}; vitjax, {', '.join(checked)}), logits within {difference:.1e}",
        flush=True,
    )
    return params, timed, {"same_tokens": sorted(checked), "logits_difference": difference}


def _problem(peer: Any, options: argparse.Namespace) -> str:
    """Why a peer does not run, "" if it does."""
    try:
        for beams in options.peer_beams:
            peer.generate(beams, 2)
    except Exception as error:  # whatever a compiler can raise
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


def _setting(options: argparse.Namespace, threads: int, dtype: str) -> dict[str, Any]:
    kept = {name: value for name, value in vars(options).items() if name != "results"}
    return {**kept, "threads": threads, "dtype": dtype}


def _encoders(models: Mapping[str, Any]) -> list[str]:
    """Those whose encoder is timed; the other peers share one."""
    return [name for name in ("vitjax", "transformers") if name in models]


def _lengths(options: argparse.Namespace) -> tuple[int, int]:
    return max(1, options.tokens // 8), options.tokens


def _calls(models: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is compared stands together, so that a slow moment of the machine meets all of it."""
    calls = {f"{name} encode": models[name].encode for name in _encoders(models)}
    for beams in options.beams:
        for tokens in _lengths(options):
            for name, model in models.items():
                if name == "vitjax" or beams in options.peer_beams:
                    calls[f"{name} {beams} {tokens}"] = partial(model.generate, beams, tokens)
    return calls


def _steps(times: Mapping[str, list[float]], models: Mapping[str, Any], options: argparse.Namespace) -> dict:
    """name -> beams -> milliseconds of a step in each round, their median, the median of their ratios to vitjax's."""
    short, long = _lengths(options)

    def rounds(name: str, beams: int) -> list[float]:
        pairs = zip(times[f"{name} {beams} {long}"], times[f"{name} {beams} {short}"], strict=True)
        return [(a - b) / (long - short) for a, b in pairs]

    steps: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in models}
    for beams in options.beams:
        ours = rounds("vitjax", beams)
        for name in models:
            if f"{name} {beams} {long}" in times:
                values = rounds(name, beams)
                ratios = [value / our for value, our in zip(values, ours, strict=True)]
                steps[name][beams] = {
                    "median": statistics.median(values),
                    "times_vitjax": statistics.median(ratios),
                    "rounds": values,
                }
    return steps


def _floor(
    config: EncoderDecoderConfig,
    beams: int,
    probes: Probes,
    times: Mapping[str, list[float]],
    options: argparse.Namespace,
) -> dict[str, float]:
    work = step_work(config, batch=options.batch, beams=beams, length=statistics.mean(_lengths(options)))
    speed = probes.speed(times, options.batch * beams)
    return {
        "bytes": work.bytes,
        "operations": work.operations,
        "operations_per_second": speed,
        "reading_ms": 1e3 * work.bytes / probes.bandwidth(times),
        "computing_ms": 1e3 * work.operations / speed,
    }


if __name__ == "__main__":
    main()
