"""Make diverse.json: what group beam search of transformers 4 generates with random lookup tables.

    python tests/golden/make_diverse.py        # needs torch and transformers 4.x, and nothing of vitjax

Models as in make_beam_search.py. Only cases in which 4 and 5 stop alike are kept: early_stopping is True, and either
no sequence ends at the maximum length (where a group that fills up drops its unfinished beams in transformers 4 and
keeps them in 5) or all do. The pad token, for which transformers 4 punishes the groups after a finished one, is made
too unlikely to matter.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from make_beam_search import START, TableConfig, TableModel, has_ties, make_table

CASES = 12  # of each set
ROWS = 4
PAD, EOS = 0, 2
SETS = [
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.8, "length_penalty": 1.0},
    {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.3, "length_penalty": 0.0},
    {"num_beams": 3, "num_beam_groups": 3, "diversity_penalty": 1.5, "length_penalty": 2.0},
    {
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 2.0,
        "length_penalty": -0.5,
        "no_repeat_ngram_size": 3,
    },
]


def main():
    transformers.logging.set_verbosity_error()
    sets = []
    for number, options in enumerate(SETS):
        vocabulary, random = 14, np.random.default_rng(number)
        options = options | {"early_stopping": True, "pad_token_id": PAD}
        if number:
            options["eos_token_id"] = EOS
        options["num_return_sequences"] = options["num_beams"]
        cases = []
        seed = 1000 * (number + 1)
        while len(cases) < CASES:
            seed += 1
            table = {
                "seed": seed,
                "scale": float(random.choice([0.7, 1.5, 3.0])),
                "bias": float(random.choice([0.5, 2.0])),
            }
            new = 28 if number else int(random.integers(2, 13))
            logits = make_table(**table, vocabulary=vocabulary, stops=[EOS])
            logits[:, PAD] = -60
            out = TableModel(
                TableConfig(vocabulary, bos_token_id=START, decoder_start_token_id=START), logits
            ).generate(
                torch.arange(ROWS)[:, None],
                use_cache=False,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                max_new_tokens=new,
                **options,
            )
            scores = out.sequences_scores.reshape(ROWS, -1).double().numpy()
            cut = number and out.sequences.shape[-1] == new + 1
            if cut or has_ties(scores):
                continue
            sequences = out.sequences.reshape(ROWS, options["num_beams"], -1).tolist()
            cases.append(
                {
                    "table": table,
                    "lengths": {"max_new_tokens": new},
                    "sequences": sequences,
                    "scores": scores.round(6).tolist(),
                }
            )
        sets.append({"vocabulary": vocabulary, "options": options, "cases": cases})
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in sets)
    path = Path(__file__).with_name("diverse.json")
    path.write_text(f'{{"made_with":{json.dumps(made_with)},"rows":{ROWS},"sets":[\n{lines}\n]}}\n')
    print(f"{path}: {len(SETS)} x {CASES} cases of {ROWS} rows, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
