"""Write warpers.json: what transformers leaves of random logits before it samples.

    python make_warpers.py        needs torch and transformers, in an environment of its own

The processors are those that `generate` itself builds for the options. A case whose result hangs on rounding (some
running sum of float32 probabilities within 1e-5 of a threshold) is drawn again.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, GenerationMixin

CASES = 250
ROWS = 2
SIZES = (2, 5, 16, 40, 130)


def draw_options(random):
    """Options of one case, each of them there half of the time."""
    choices = {
        "temperature": [0.1, 0.7, 1.0, 1.3, 5.0],
        "top_k": [0, 1, 3, 10, 50, 1000],
        "top_p": [0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0],
        "min_p": [0.0, 0.02, 0.1, 0.5, 1.0],
        "typical_p": [0.05, 0.2, 0.5, 0.9, 0.99, 1.0],
        "epsilon_cutoff": [0.0, 0.001, 0.05, 0.6],
        "eta_cutoff": [0.0, 0.001, 0.05, 0.6],
    }
    rate = random.choice([0.2, 0.5])
    options = {
        name: values[int(random.integers(len(values)))]
        for name, values in choices.items()
        if random.random() < rate
    }
    return options or {"top_p": 0.6}


def draw_logits(random):
    """[ROWS, V], at times with ties, all equal, or with tokens that were forbidden before."""
    logits = random.standard_normal((ROWS, int(random.choice(SIZES)))) * random.choice([0.3, 2.0, 6.0])
    kind = random.integers(5)
    if kind == 0:
        logits = np.round(logits)
    if kind == 1:
        logits[:] = 1.5
    if kind == 2:
        logits[random.random(logits.shape) < 0.4] = -math.inf
        logits[:, 0] = 0.0
    return np.round(logits, 3).astype(np.float32)


def processors(options):
    """What `generate` would apply, in its order."""
    config = GenerationConfig(do_sample=True, **{"top_k": 50, **options})
    config._eos_token_tensor = None
    model = type("Model", (GenerationMixin,), {"config": transformers.PreTrainedConfig()})()
    return model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")


def apply(steps, logits):
    ids = torch.zeros((ROWS, 1), dtype=torch.long)
    return steps(ids, logits)


def hangs_on_rounding(options, logits):
    """Whether a change of the seventh digit of a probability, or of an option, changes what is kept."""
    kept = apply(processors(options), logits).isfinite()
    for change in (1e-5, -1e-5):
        moved = {
            name: min(1.0, max(0.0, value + change)) if isinstance(value, float) and 0 < value < 1 else value
            for name, value in options.items()
        }
        if not torch.equal(kept, apply(processors(moved), logits).isfinite()):
            return True
    return False


def main():
    random = np.random.default_rng(0)
    cases, redrawn, tied = [], 0, 0
    while len(cases) < CASES:
        options, logits = draw_options(random), torch.from_numpy(draw_logits(random))
        if hangs_on_rounding(options, logits):
            redrawn += 1
            continue
        tied += int(any(len(set(row)) < len(row) for row in logits.tolist()))
        out = apply(processors(options), logits)
        cases.append({"options": options, "logits": logits.tolist(), "filtered": out.tolist()})
    # Exact in binary: equal probabilities 1/2, 1/4, ... that add up to just what `top_p` leaves out.
    for size, top_p in ((8, 0.5), (16, 0.25), (4, 0.75)):
        logits = torch.full((ROWS, size), 0.25)
        options = {"top_k": 0, "top_p": top_p}
        out = apply(processors(options), logits)
        cases.append({"options": options, "logits": logits.tolist(), "filtered": out.tolist()})
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    for case in cases:
        case["filtered"] = [
            [None if v == -math.inf else round(v, 6) for v in row] for row in case["filtered"]
        ]
        case["logits"] = [[None if v == -math.inf else round(v, 3) for v in row] for row in case["logits"]]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path = Path(__file__).with_name("warpers.json")
    path.write_text(f'{{"made_with":{json.dumps(made_with)},"cases":[\n{lines}\n]}}\n')
    print(
        f"{path}: {len(cases)} cases, {tied} with ties, {redrawn} drawn again, {path.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
