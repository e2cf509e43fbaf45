"""`vitjax convert`: a model from one library's files to another's."""

import argparse
from collections.abc import Sequence

FORMATS = ("hf", "timm", "npz", "orbax", "safetensors")
EXAMPLE = """examples:
  vitjax convert google/vit-base-patch16-224 vit --format orbax
  vitjax convert runs/digits_vit digits --format timm
"""


def main(arguments: Sequence[str]) -> int:
    """Load SRC, save it as DST, load that again and compare every array, and say what the format cannot hold."""
    parser = argparse.ArgumentParser(
        prog="vitjax convert",
        description="Write a model in the format of transformers (hf), timm, big_vision (npz), or in vitjax's own.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("src", help="a run, a saved model, a checkpoint, an .npz, or a hub id")
    parser.add_argument("dst", help="directory to write, new or empty")
    parser.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="orbax and safetensors hold any model and are read by vitjax",
    )
    options = parser.parse_args(arguments)

    import numpy as np

    from vitjax.api import load
    from vitjax.parallel.paths import named_leaves
    from vitjax.saved import save

    model = load(options.src)
    notes = save(model, options.dst, format=options.format)
    again = load(options.dst)
    written = named_leaves({"params": again.params, "stats": again.stats})
    for name, array in named_leaves({"params": model.params, "stats": model.stats}).items():
        if np.asarray(array).tobytes() != np.asarray(written[name]).tobytes():
            raise OSError(f"{options.dst}: {name} reads back otherwise than it was written")
    print(f"{options.dst}: {options.format}, {len(written)} arrays read back bit for bit")
    for note in notes:
        print(f"note: {note}")
    return 0
