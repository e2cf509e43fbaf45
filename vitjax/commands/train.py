"""`vitjax train`: config -> fit."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vitjax.commands.overrides import apply_overrides

EXAMPLE = """example:
  vitjax train --config configs/digit_strings.py --train.steps 500 --mesh data=4,fsdp=2
  vitjax train --config configs/finetune.py --init runs/text_lines
  vitjax train --config configs/digit_strings.py --help     lists every key of that config
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the flags, join the other processes, fit, and say how it went."""
    parser = argparse.ArgumentParser(
        prog="vitjax train",
        description="Train as a config file says; any of its keys can be changed: --optimizer.learning_rate 1e-4",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a Python file with get_config(), see configs/")
    parser.add_argument(
        "--init",
        metavar="DIR",
        help="start from its parameters: a run, a saved model, a checkpoint, a hub id",
    )
    parser.add_argument("--directory", metavar="DIR", help="where the run is written (runs/<name>)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest good checkpoint")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes of the run, where JAX cannot tell"
    )
    parser.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    options, overrides = parser.parse_known_args(arguments)
    if options.config is None:
        if not {"-h", "--help"} & set(overrides):
            raise ValueError("no --config FILE: give one of configs/, or see vitjax train --help")
        parser.print_help()
        return 0

    from vitjax.training.reading import describe
    from vitjax.training.recipe import load_config
    from vitjax.training.start import load_start

    # A run that goes on knows what it started from; the checkpoint itself may be gone.
    start = load_start(options.directory) if options.resume and options.directory else None
    init = start.pretrained if start else describe(options.init) if options.init else None
    config = load_config(options.config, init)
    config = apply_overrides(config, overrides, prog="vitjax train", flags=vars(options))

    from vitjax.parallel.processes import ProcessConfig, initialize
    from vitjax.training.checkpoints import SaveFailed
    from vitjax.training.loop import fit

    initialize(ProcessConfig(options.coordinator, options.processes, options.process))
    directory = Path(options.directory or Path("runs") / config.name)
    try:
        result = fit(config, directory, resume=options.resume)
    except SaveFailed as failure:
        raise OSError(str(failure)) from failure
    report(result, directory)
    return 0 if result.stopped is None else 128 + result.stopped


def report(result, directory: Path) -> None:
    """The last lines of a run."""
    from vitjax.parallel.processes import is_primary

    if not is_primary():
        return
    if result.stopped:
        print(f"stopped by {result.stopped.name} after step {int(result.state.step)}; go on with --resume")
        return
    if result.evaluation is None:
        print(f"{directory} was already at step {int(result.state.step)}; --train.steps takes it further")
        return
    print(summary_line(result.evaluation))
    print(f"trained in {result.train_seconds:.0f} s; written to {directory}")


def summary_line(evaluation) -> str:
    """The scores of an evaluation in words."""
    parts = [f"loss {evaluation.loss:.4f}"]
    if evaluation.accuracy is not None:
        parts.append(f"accuracy {evaluation.accuracy}")
    if evaluation.exact_match is not None:
        parts.append(f"exact match {evaluation.exact_match}")
    if evaluation.character_error_rate is not None:
        parts.append(f"character error rate {evaluation.character_error_rate:.2%}")
    return "; ".join(parts)
