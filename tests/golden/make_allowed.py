"""Make allowed.json: what transformers generates where `prefix_allowed_tokens_fn` restricts it to given sequences.

    python tests/golden/make_allowed.py        # needs torch and transformers, and nothing of vitjax

Models as in make_beam_search.py.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from make_beam_search import START, TableConfig, TableModel, has_ties, make_table

CASES = 10  # of each set
ROWS = 4
VOCABULARY = 14
SETS = [
    {"num_beams": 1, "eos_token_id": [2]},
    {"num_beams": 1, "eos_token_id": [2, 3], "repetition_penalty": 1.5},
    {"num_beams": 3, "eos_token_id": [2], "length_penalty": 1.0, "early_stopping": True},
    {
        "num_beams": 4,
        "eos_token_id": [2],
        "length_penalty": 0.0,
        "early_stopping": False,
        "forced_bos_token_id": 5,
    },
    {"num_beams": 5, "eos_token_id": [2, 3], "length_penalty": -1.0, "early_stopping": "never"},
    {
        "num_beams": 3,
        "eos_token_id": [2],
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [6],
    },
]


def make_allowed(random):
    """Sequences of other ids than EOS, many with a common beginning, some the beginning of another."""
    sequences = [[5]]
    for _ in range(24):
        begin = sequences[int(random.integers(len(sequences)))] if random.random() < 0.7 else []
        sequence = [*begin[:4], *(int(i) for i in random.integers(4, VOCABULARY, int(random.integers(1, 4))))]
        if sequence not in sequences:
            sequences.append(sequence)
    return sequences


def allowed_tokens(sequences, stops):
    """A function for transformers; what is no beginning of a sequence can only end."""

    def after(batch, tokens):
        written = tokens.tolist()[1:]
        found = {s[len(written)] for s in sequences if s[: len(written)] == written and len(s) > len(written)}
        if written in sequences or not found:
            found |= set(stops)
        return sorted(found)

    return after


def main():
    transformers.logging.set_verbosity_error()
    sets = []
    for number, options in enumerate(SETS):
        random = np.random.default_rng(number)
        options = options | {
            "pad_token_id": START,
            "max_new_tokens": 9,
            "num_return_sequences": options["num_beams"],
        }
        cases, seed = [], 1000 * (number + 1)
        while len(cases) < CASES:
            seed += 1
            table = {"seed": seed, "scale": float(random.choice([0.7, 1.5, 3.0])), "bias": 0.0}
            sequences = make_allowed(random)
            out = TableModel(
                TableConfig(VOCABULARY, bos_token_id=START, decoder_start_token_id=START),
                make_table(**table, vocabulary=VOCABULARY, stops=options["eos_token_id"]),
            ).generate(
                torch.arange(ROWS)[:, None],
                use_cache=False,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                prefix_allowed_tokens_fn=allowed_tokens(sequences, options["eos_token_id"]),
                **options,
            )
            scores = None
            if options["num_beams"] > 1:
                scores = out.sequences_scores.reshape(ROWS, -1).double().numpy()
                if has_ties(scores):
                    continue
                scores = scores.round(6).tolist()
            written = out.sequences.reshape(ROWS, options["num_beams"], -1).tolist()
            cases.append({"table": table, "allowed": sequences, "sequences": written, "scores": scores})
        sets.append({"options": options, "cases": cases})
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in sets)
    path = Path(__file__).with_name("allowed.json")
    head = f'{{"made_with":{json.dumps(made_with)},"rows":{ROWS},"vocabulary":{VOCABULARY},"sets":[\n'
    path.write_text(f"{head}{lines}\n]}}\n")
    print(f"{path}: {len(SETS)} x {CASES} cases of {ROWS} rows, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
