"""`vitjax inspect`: what a run or a checkpoint is made of."""

import argparse
import json
from collections.abc import Sequence

EXAMPLE = """examples:
  vitjax inspect runs/demo --arrays
  vitjax inspect google/vit-base-patch16-224
"""


def main(arguments: Sequence[str]) -> int:
    """Print family, sizes, parameters, preprocessing and tokenizer, without reading the arrays."""
    parser = argparse.ArgumentParser(
        prog="vitjax inspect",
        description="Show what a run or a checkpoint is made of, without reading its arrays.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", help="directory of a run, of a saved model or of a checkpoint, an .npz, or a hub id"
    )
    parser.add_argument("--arrays", action="store_true", help="list every array")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from vitjax.commands.records import checkpoint_record, run_record, saved_record
    from vitjax.training.runs import is_run
    from vitjax.training.saved_folder import is_saved
    from vitjax.weights.hub import local_path

    path = local_path(options.path)
    record = (run_record if is_run(path) else saved_record if is_saved(path) else checkpoint_record)(path)
    record = {name: value for name, value in record.items() if value is not None}
    if not options.arrays:
        record.pop("arrays")
    print(json.dumps(record) if options.json else in_words(record))
    return 0


def in_words(record: dict) -> str:
    """A line for each part of a record; arrays below, one a line."""
    lines = [f"{record['path']}: {record['what']}"]
    for name, value in record.items():
        if name in ("path", "what", "arrays") or value in ([], {}):
            continue
        if name == "parameters":
            value = f"{value:,}"
        elif name in ("data", "preprocess", "tokenizer", "generation", "files"):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif name == "ignored":
            value = "; ".join(f"{len(names)} arrays ({names[0]}, ...): {why}" for why, names in value.items())
        elif name == "licence":
            value = " / ".join([line.strip() for line in value.splitlines() if line.strip()][:3])
        elif name == "config":
            value = json.dumps(value)
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        lines.append(f"{name} {value}")
    arrays = record.get("arrays", {})
    lines += [f"  {name} {array['dtype']}{list(array['shape'])}" for name, array in arrays.items()]
    return "\n".join(lines)
