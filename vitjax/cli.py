"""The `vitjax` command: train, evaluate, decode, convert, export, inspect, plan, study.

Bad input ends with one line on standard error and a non-zero exit code; a traceback is a bug of ours.
"""

import argparse
import importlib
import os
import sys

COMMANDS = {
    "train": "train a model as a config file says",
    "evaluate": "score a run on its held-out data",
    "decode": "write what a run reads in image files or text",
    "convert": "write a model in another format",
    "export": "write a model as a program that needs jax alone",
    "inspect": "show what a run or a checkpoint is made of",
    "plan": "compile a config ahead of time: memory, FLOPs, sharding",
    "study": "measure what textbooks say about Transformers",
}
EXPECTED_ERRORS = (ValueError, OSError, FloatingPointError)


def main(argv: list[str] | None = None) -> None:
    """Run one command; each lives in `vitjax.commands` and is imported only when asked for."""
    parser = argparse.ArgumentParser(
        prog="vitjax",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="vitjax COMMAND --help says more, with an example.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_text in COMMANDS.items():
        commands.add_parser(name, help=help_text, add_help=False)
    arguments = sys.argv[1:] if argv is None else argv
    known, rest = parser.parse_known_args(arguments[:1])
    command = importlib.import_module(f"vitjax.commands.{known.command}")
    try:
        sys.exit(command.main(rest + arguments[1:]))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EXPECTED_ERRORS as error:
        message = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"vitjax {known.command}: error: {message}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
