"""Make weights/: tiny random checkpoints of every family, and what transformers and timm compute from them.

    python -m tests.golden.make [CASE ...]     # needs torch, timm and transformers, and nothing of vitjax

Weights come from NumPy's generator by name and seed and are the same on every machine. Outputs are the reference's in
float32: the same bytes on the same machine, a rounding apart on another.
"""

import argparse
import logging
import shutil
import warnings
from pathlib import Path

import torch
import transformers

from tests.golden.cases import CASES

WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="only these cases, by name")
    wanted = parser.parse_args().case
    if unknown := [name for name in wanted if name not in CASES]:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    quiet()
    for name in wanted or CASES:
        shutil.rmtree(WEIGHTS / name, ignore_errors=True)
        facts = CASES[name].make(WEIGHTS / name)
        doubt = f"  doubtful: {', '.join(facts['doubtful'])}" if facts.get("doubtful") else ""
        print(f"{name:24} {size(WEIGHTS / name) / 1e3:8.1f} kB{doubt}")
    print(f"{'together':24} {size(WEIGHTS) / 1e6:8.2f} MB")


def quiet() -> None:
    """One thread, for the same bytes each time, and no word of what the references would like to be called with."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
