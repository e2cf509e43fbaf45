"""`vitjax evaluate`: score a run on held-out data."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

EXAMPLE = """example:
  vitjax evaluate runs/digit_strings --num-beams 4 --json
"""


def main(arguments: Sequence[str]) -> int:
    """Print loss, accuracy or exact match with a 95 % interval, and character error rate."""
    parser = argparse.ArgumentParser(
        prog="vitjax evaluate",
        description="Score a run on its held-out split.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="directory of a run, such as runs/digit_strings")
    parser.add_argument("--split", help="a TFDS split instead of the run's own: test[:100]")
    parser.add_argument("--data-dir", help="where prepared datasets lie, if not where they were in training")
    parser.add_argument("--num-beams", type=int, help="beams of a sequence model; 1 is greedy")
    parser.add_argument("--batch-size", type=int, help="examples at a time (as in training)")
    parser.add_argument("--mesh", help="data=4,fsdp=2 (all devices on data)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from vitjax.api import load
    from vitjax.commands.train import summary_line
    from vitjax.parallel.mesh import MeshConfig, make_mesh
    from vitjax.parallel.processes import initialize, is_primary
    from vitjax.training.evaluation import evaluate, make_generation
    from vitjax.training.runs import load_run_config
    from vitjax.training.streams import eval_stream
    from vitjax.training.tasks import is_classifier

    initialize()
    config = load_run_config(options.run)
    data, train = config.data, config.train
    if options.split:
        data = dataclasses.replace(data, eval_split=options.split)
    if options.data_dir:
        data = dataclasses.replace(data, data_dir=options.data_dir)
    if options.batch_size is not None:
        train = dataclasses.replace(train, batch_size=options.batch_size, accumulate=1)
    config = dataclasses.replace(config, data=data, train=train)
    if options.num_beams is not None and is_classifier(config):
        raise ValueError(f"{options.run} names classes: it has no use for --num-beams")
    generation = make_generation(config.generation, options.num_beams)
    mesh = make_mesh(MeshConfig.parse(options.mesh or ""))
    model = load(options.run, mesh=mesh)
    with eval_stream(config, mesh, tokenizer=model.tokenizer) as batches:
        evaluation = evaluate(
            config,
            model.definition,
            model.params,
            model.stats,
            batches,
            mesh=mesh,
            tokenizer=model.tokenizer,
            generation=generation,
        )
    if not is_primary():
        return 0
    if options.json:
        print(json.dumps(as_json(evaluation)))
    else:
        print(summary_line(evaluation))
    return 0


def as_json(evaluation) -> dict:
    """Scores with their intervals, as JSON can hold them."""
    scores: dict = {"loss": evaluation.loss}
    for name in ("accuracy", "exact_match"):
        if (share := getattr(evaluation, name)) is not None:
            scores[name] = share.value
            scores[f"{name}_interval"] = [share.low, share.high]
            scores["examples"] = share.total
    if evaluation.character_error_rate is not None:
        scores["character_error_rate"] = evaluation.character_error_rate
    return scores
