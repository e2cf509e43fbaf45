"""Make beam_search.json: what transformers generates with random lookup tables and random options.

    python tests/golden/make_beam_search.py        # needs torch and transformers, and nothing of vitjax

The model is the automaton of tests/decoding/decoders.py as a PyTorch encoder-decoder without parameters. Tables come
from NumPy's legacy generator by seed, so the file holds options and results only.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

STATES = 4093
CASES = 36
ROWS = 24
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


def draw(random, case):
    """Options of one case: a table, prompts, and arguments of `generate`."""
    vocabulary = int(random.integers(6, 14))
    stops = sorted(
        int(i) for i in random.choice(np.arange(2, vocabulary), random.integers(0, 4), replace=False)
    )
    beams = 1 if case % 9 == 8 else int(random.integers(2, 6))
    length = int(random.integers(1, 4))
    prompt = random.integers(2, vocabulary, (ROWS, length))
    prompt[:, 0] = START
    mask = None
    if length > 1 and random.random() < 0.5:
        real = random.integers(1, length + 1, ROWS)
        real[0] = length
        mask = np.arange(length)[None] >= length - real[:, None]
        prompt = np.where(mask, prompt, 0)
    new = int(random.integers(1, 15))
    options = {"num_beams": beams, "max_new_tokens": new, "pad_token_id": 0, "eos_token_id": stops or None}
    if stops:
        options["pad_token_id"] = [0, START, None][int(random.integers(3))]
    if beams > 1:
        options["length_penalty"] = float(random.choice([1.0, 0.0, -1.0, 0.5, 2.0, -0.3, 1.7]))
        options["early_stopping"] = [True, False, "never"][int(random.integers(3))]
        options["num_return_sequences"] = int(random.integers(1, beams + 1))
    if stops and random.random() < 0.3:
        options["min_new_tokens"] = int(random.integers(1, new + 1))
    elif stops and random.random() < 0.3:
        options["min_length"] = int(random.integers(1, length + new + 1))
    if random.random() < 0.15:
        options["forced_eos_token_id"] = stops[0] if stops else 2
    if random.random() < 0.15:
        options["forced_bos_token_id"] = int(random.integers(1, vocabulary))
    table = {
        "seed": 1000 + case,
        "vocabulary": vocabulary,
        "scale": float(random.choice([0.7, 1.5, 3.0])),
        "stops": stops,
        "bias": float(random.choice([-1.0, 0.0, 1.0, 2.0])),
    }
    return table, prompt, mask, options


def main():
    transformers.logging.set_verbosity_error()
    random = np.random.default_rng(0)
    cases = []
    for case in range(CASES):
        table, prompt, mask, options = draw(random, case)
        model = TableModel(
            TableConfig(table["vocabulary"], bos_token_id=START, decoder_start_token_id=START),
            make_table(**table),
        )
        given = {k: v for k, v in options.items() if v is not None}
        if mask is not None:
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
        # transformers puts a start token in front of prompts that have none, if no row has one
        assert (
            out.sequences[:: options.get("num_return_sequences", 1), : prompt.shape[1]].numpy() == prompt
        ).all()
        returned = options.get("num_return_sequences", 1)
        scores = getattr(out, "sequences_scores", None)
        if scores is not None:  # no order to agree on where hypotheses tie
            gaps = -scores.reshape(ROWS, returned).diff(dim=1)
            assert ((gaps > 1e-6) | (scores.reshape(ROWS, returned)[:, 1:] < -1e8)).all()
        cases.append(
            {
                "table": table,
                "options": options,
                "prompt": prompt.tolist(),
                "prompt_mask": None if mask is None else mask.astype(int).tolist(),
                "sequences": out.sequences.reshape(ROWS, returned, -1).tolist(),
                "scores": None
                if scores is None
                else np.round(scores.reshape(ROWS, returned).double().numpy(), 7).tolist(),
            }
        )
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path = Path(__file__).with_name("beam_search.json")
    path.write_text(f'{{"made_with":{json.dumps(made_with)},"rows":{ROWS},"cases":[\n{lines}\n]}}\n')
    print(f"{path}: {len(cases)} cases of {ROWS} rows, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
