"""`vitjax inspect`: what a run is made of."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = """example:
  vitjax inspect runs/demo --arrays
"""


def main(arguments: Sequence[str]) -> int:
    """Print model, sizes, data, preprocessing, tokenizer and checkpoints of a run, without reading its arrays."""
    parser = argparse.ArgumentParser(
        prog="vitjax inspect",
        description="Show what a run is made of, without reading its arrays.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="directory of a run")
    parser.add_argument("--arrays", action="store_true", help="list every array")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from vitjax.api import load_run_config
    from vitjax.data.preprocess import Preprocess
    from vitjax.models.config import reads_images
    from vitjax.training import checkpoints
    from vitjax.training.config import to_json
    from vitjax.training.tasks import is_classifier
    from vitjax.training.tokenizer_file import load_tokenizer

    config = load_run_config(options.run)
    directory = Path(options.run) / "checkpoints"
    spec, metadata = checkpoints.describe(directory)
    arrays = {name: (tuple(array["shape"]), array["dtype"]) for name, array in spec.items()}
    parameters = {
        part: sum(math.prod(shape) for name, (shape, _) in arrays.items() if name.startswith(f"{part}/"))
        for part in ("params", "frozen", "ema", "stats")
    }
    record = {
        "run": options.run,
        "model": config.model.kind,
        "steps": checkpoints.steps(directory),
        "parameters": parameters["params"] + parameters["frozen"],
        "trainable": parameters["params"],
        "averaged": parameters["ema"] > 0,
        "data": metadata["data"],
        "config": json.loads(to_json(config)),
    }
    if reads_images(config.model):
        record["preprocess"] = Preprocess.of(config.data).to_dict()
    if not is_classifier(config):
        record["tokenizer"] = load_tokenizer(options.run).to_dict()
    if options.arrays:
        record["arrays"] = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in arrays.items()}
    if options.json:
        print(json.dumps(record))
        return 0
    print(
        f"{options.run}: {record['model']}, {record['parameters']:,} parameters, {record['trainable']:,} trained"
    )
    print(
        f"checkpoints at steps {', '.join(map(str, record['steps']))}"
        + (", averaged" if record["averaged"] else "")
    )
    print(
        f"data {metadata['data']['dataset']}[{metadata['data']['split']}], {metadata['data']['examples']:,} examples"
    )
    for part in ("preprocess", "tokenizer"):
        if part in record:
            print(f"{part} " + ", ".join(f"{name} {value}" for name, value in record[part].items()))
    print(f"config {json.dumps(record['config']['model'])}")
    for name, (shape, dtype) in arrays.items() if options.arrays else ():
        print(f"  {name} {dtype}{list(shape)}")
    return 0
