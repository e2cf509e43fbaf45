"""Make beam_search.json: what transformers generates with random lookup tables and random options.

    python tests/golden/make_beam_search.py        # needs torch and transformers, and nothing of vitjax

The model is the automaton of tests/decoding/decoders.py as a PyTorch encoder-decoder without parameters. Tables come
from NumPy's legacy generator by seed, so the file holds options and results only. Options come in sets, each with many
tables, prompts and lengths: vitjax compiles one program a set.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

STATES = 4093
SETS = 33  # of options that a program is compiled for; what varies within one may not need another
RENORMALIZED = range(30, 33)
CASES = 17  # of each set: tables, prompts, lengths
ROWS = 4
START = 1


class TableConfig(PretrainedConfig):
    model_type = "table"

    def __init__(self, vocab_size=8, **options):
        super().__init__(is_encoder_decoder=True, **options)
        self.vocab_size = vocab_size


class Encoder(torch.nn.Module):
    main_input_name = "input_ids"

    def forward(self, input_ids, **_):
        return BaseModelOutput(last_hidden_state=input_ids[:, :, None].float())


class TableModel(PreTrainedModel, GenerationMixin):
    config_class = TableConfig
    main_input_name = "input_ids"

    def __init__(self, config, table):
        super().__init__(config)
        self.encoder = Encoder()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.table = torch.from_numpy(table)

    def get_encoder(self, *_, **__):
        return self.encoder

    def prepare_inputs_for_generation(
        self, input_ids, encoder_outputs=None, decoder_attention_mask=None, **_
    ):
        return {
            "decoder_input_ids": input_ids,
            "encoder_outputs": encoder_outputs,
            "decoder_attention_mask": decoder_attention_mask,
        }

    def forward(self, decoder_input_ids=None, encoder_outputs=None, decoder_attention_mask=None, **_):
        state = encoder_outputs.last_hidden_state[:, 0, 0].long()
        for t in range(decoder_input_ids.shape[1]):
            read = (7 * state + 13 * decoder_input_ids[:, t] + 1) % STATES
            state = (
                read
                if decoder_attention_mask is None
                else torch.where(decoder_attention_mask[:, t] > 0, read, state)
            )
        return Seq2SeqLMOutput(logits=self.table[state][:, None])


def make_table(seed, vocabulary, *, scale, stops, bias):
    table = np.random.RandomState(seed).standard_normal((STATES, vocabulary)) * scale
    table[:, list(stops)] += bias
    return table.astype(np.float32)


def draw_options(random, number):
    """Vocabulary, prompt lengths and arguments of `generate` that the cases of one set share."""
    vocabulary = int(random.integers(9, 15))
    lengths = [(1, 1), (2, 2), (3, 3), (9, 10)][int(random.choice(4, p=[0.45, 0.2, 0.2, 0.15]))]
    ids = random.permutation(np.arange(2, vocabulary))
    stops = sorted(int(i) for i in ids[: int(random.choice(4, p=[0.1, 0.4, 0.3, 0.2]))])
    options = {"eos_token_id": stops or None, "pad_token_id": 0}
    if stops:
        options["pad_token_id"] = [0, START, None][int(random.integers(3))]
    options["num_beams"] = 1 if number % 6 == 5 else int(random.integers(2, 6))
    if options["num_beams"] > 1:
        options["length_penalty"] = [1.0, 0.0, -1.0, 0.5, 2.0, -0.3, 1.7][number % 7]
        options["early_stopping"] = [True, False, "never"][number // 2 % 3]
        options["num_return_sequences"] = int(random.integers(1, options["num_beams"] + 1))

    def some(most):
        """Tokens of which none is forced."""
        free = [i for i in range(vocabulary) if i not in (ids[-1], 2, *stops[:1])]
        return [int(i) for i in random.choice(free, int(random.integers(1, most + 1)), replace=False)]

    others = {
        "repetition_penalty": lambda: float(random.choice([0.6, 1.2, 1.8, 3.0])),
        "no_repeat_ngram_size": lambda: [1, 2, 3, 4][number // 5 % 4],
        "bad_words_ids": lambda: [
            *([int(i)] for i in [*some(1), *stops[:1]]),
            *([int(i) for i in random.integers(0, vocabulary, size)] for size in (2, 2, 2, 2, 3, 3, 4)),
            *([int(i), *stops[:1]] for i in random.integers(0, vocabulary, 2)),
        ],
        "forced_bos_token_id": lambda: int(ids[-1]),
        "forced_eos_token_id": lambda: stops[0] if stops else 2,
        "suppress_tokens": lambda: some(2),
        "begin_suppress_tokens": lambda: some(2),
    }
    for i, (name, draw) in enumerate(others.items()):
        by_turns = (number // 6 + i) % 2 == 0  # the few greedy sets
        if by_turns if options["num_beams"] == 1 else random.random() < 0.35:
            options[name] = draw()
    if number in RENORMALIZED:
        options |= {"renormalize_logits": True, "bad_words_ids": [[token] for token in some(3)]}
    return vocabulary, lengths, {name: value for name, value in options.items() if value is not None}


def draw_case(random, seed, vocabulary, lengths, options):
    """A table, prompts [ROWS, length] with the number of their real tokens, and the lengths that were asked for."""
    length = int(random.integers(lengths[0], lengths[1] + 1))
    prompt = random.integers(2, vocabulary, (ROWS, length))
    prompt[:, 0] = START
    real = np.full(ROWS, length)
    if length > 1 and random.random() < 0.6:
        real[1:] = random.integers(1, length + 1, ROWS - 1)
    prompt = np.where(np.arange(length) >= length - real[:, None], prompt, 0)
    new = int(random.integers(1, 15 if options.get("no_repeat_ngram_size") != 1 else 5))
    asked = {"max_new_tokens": new} if random.random() < 0.5 else {"max_length": length + new}
    if options.get("eos_token_id") and random.random() < 0.3:
        asked["min_new_tokens"] = int(random.integers(1, new + 1))
    elif options.get("eos_token_id") and random.random() < 0.4:
        asked["min_length"] = int(random.integers(1, length + new + 1))
    table = {
        "seed": seed,
        "scale": float(random.choice([0.7, 1.5, 3.0])),
        "bias": float(random.choice([-1.0, 0.0, 1.0, 2.0])),
    }
    return table, prompt, real, asked


def generate(vocabulary, table, prompt, real, options):
    """Sequences [ROWS, N, T], and scores [ROWS, N] of beam search."""
    model = TableModel(
        TableConfig(vocabulary, bos_token_id=START, decoder_start_token_id=START),
        make_table(**table, vocabulary=vocabulary, stops=options.get("eos_token_id", [])),
    )
    given = dict(options)
    if (real < prompt.shape[1]).any():
        mask = np.arange(prompt.shape[1]) >= prompt.shape[1] - real[:, None]
        given["decoder_attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    out = model.generate(
        torch.arange(ROWS)[:, None],
        decoder_input_ids=torch.from_numpy(prompt),
        use_cache=False,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **given,
    )
    returned = options.get("num_return_sequences", 1)
    sequences = out.sequences.reshape(ROWS, returned, -1).numpy()
    # transformers puts a start token in front of prompts that have none, if no row has one
    assert (sequences[:, :, : prompt.shape[1]] == prompt[:, None]).all()
    scores = getattr(out, "sequences_scores", None)
    return sequences, None if scores is None else scores.reshape(ROWS, returned).double().numpy()


def has_ties(scores):
    """Whether hypotheses are too close for an order to agree on. Those never alive (about -1e9) do not count."""
    return ((scores[:, :-1] - scores[:, 1:] < 1e-5) & (scores[:, 1:] > -1e6)).any()


def main():
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    random = np.random.default_rng(0)
    sets = []
    for number in range(SETS):
        vocabulary, lengths, options = draw_options(random, number)
        cases = []
        seed = 1000 * (number + 1)
        while len(cases) < CASES:
            seed += 1
            table, prompt, real, asked = draw_case(random, seed, vocabulary, lengths, options)
            sequences, scores = generate(vocabulary, table, prompt, real, options | asked)
            if scores is not None and (
                has_ties(scores) or (scores[:, 0] < -1e6).any()
            ):  # or nothing was possible
                continue
            cases.append(
                {
                    "table": table,
                    "lengths": asked,
                    "prompt": prompt.tolist(),
                    "real": real.tolist(),
                    "sequences": sequences.tolist(),
                    "scores": None if scores is None else np.round(scores, 6).tolist(),
                }
            )
        sets.append({"vocabulary": vocabulary, "options": options, "cases": cases})
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in sets)
    path = Path(__file__).with_name("beam_search.json")
    path.write_text(f'{{"made_with":{json.dumps(made_with)},"rows":{ROWS},"sets":[\n{lines}\n]}}\n')
    print(f"{path}: {SETS} x {CASES} cases of {ROWS} rows, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
