"""Make generation.json: what transformers makes of generation_config.json and config.json, in the ways they come.

    python -m tests.golden.make_generation     # needs torch and transformers, and nothing of vitjax

Each case is the two files of a folder (the second may be missing) and the generation options that the model, loaded
from there, has.
"""

import json
import tempfile
from pathlib import Path

import transformers
from transformers import BartConfig, MarianConfig, T5Config

FILE = Path(__file__).with_name("generation.json")
SMALL = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 1,
    "vocab_size": 30,
}
SMALL |= {
    "decoder_attention_heads": 1,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 40,
}
# Models of 2019 to 2022 keep all of it in config.json, the defaults of that time included.
OLD = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "top_k": 50,
}
OLD |= {
    "temperature": 1.0,
    "top_p": 1.0,
    "length_penalty": 1.0,
    "repetition_penalty": 1.0,
    "bad_words_ids": None,
}
OLD |= {"no_repeat_ngram_size": 0, "num_return_sequences": 1, "num_beam_groups": 1, "diversity_penalty": 0.0}
MARIAN = {
    "bad_words_ids": [[29]],
    "bos_token_id": 0,
    "decoder_start_token_id": 29,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
    "max_length": 512,
    "num_beams": 4,
    "pad_token_id": 29,
}


def marian(**fields):
    return (
        MarianConfig(**SMALL, pad_token_id=29).to_diff_dict() | {"architectures": ["MarianMTModel"]} | fields
    )


def bart(**fields):
    return BartConfig(**SMALL).to_diff_dict() | {"architectures": ["BartForConditionalGeneration"]} | fields


def t5(**fields):
    small = {"d_model": 8, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1, "vocab_size": 30}
    return T5Config(**small).to_diff_dict() | {"architectures": ["T5ForConditionalGeneration"]} | fields


def image_to_text(decoder, **fields):
    """A VisionEncoderDecoderModel; what its encoder says of generation is nothing to go by."""
    encoder = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes = {
        "d_model": 8,
        "decoder_layers": 1,
        "decoder_attention_heads": 1,
        "decoder_ffn_dim": 8,
        "vocab_size": 30,
    }
    return {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": "vision-encoder-decoder",
        "encoder": {**encoder, "intermediate_size": 8, "image_size": 16, **OLD, "num_beams": 7},
        "decoder": {"model_type": "trocr", **sizes, **decoder},
        **fields,
    }


IDS = {"bos_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
FORCED = {"forced_bos_token_id": 0, "forced_eos_token_id": 2}
SUMMARY = {
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
}
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "typical_p": 0.8, "min_p": 0.05}
SAMPLING |= {"epsilon_cutoff": 3e-4, "eta_cutoff": 6e-4, "repetition_penalty": 1.2, "num_return_sequences": 3}
SAMPLING |= {
    "suppress_tokens": [3, 4],
    "begin_suppress_tokens": [5],
    "max_new_tokens": 30,
    "min_new_tokens": 2,
}
CASES = {
    "marian": (marian(), MARIAN | {"renormalize_logits": True, "transformers_version": "4.32.0"}),
    "marian, old": (marian(**OLD | MARIAN), None),
    "marian, what config.json says is not read": (
        marian(num_beams=6, max_length=99),
        {"eos_token_id": 0, "decoder_start_token_id": 29},
    ),
    "t5": (
        t5(),
        {"_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    ),
    "t5, old": (t5(task_specific_params={"summarization": {"num_beams": 4}}, decoder_start_token_id=0), None),
    "bart-large-cnn": (bart(), IDS | FORCED | SUMMARY | {"early_stopping": True, "_from_model_config": True}),
    "bart, old": (
        bart(**OLD | IDS | {"num_beams": 4, "early_stopping": True, "force_bos_token_to_be_generated": True}),
        None,
    ),
    "bart, nulls": (
        bart(),
        IDS | {"num_beams": None, "length_penalty": None, "early_stopping": "never", "top_k": None},
    ),
    "trocr": (
        image_to_text(IDS),
        IDS | {"max_length": 64, "use_cache": False, "num_beams": 4, "length_penalty": 2.0},
    ),
    "trocr, old": (
        image_to_text(
            OLD | IDS | {"decoder_start_token_id": 0}, **IDS | {"bos_token_id": None, "max_length": 64}
        ),
        None,
    ),
    "trocr, in the decoder": (
        image_to_text(OLD | IDS | {"num_beams": 5, "no_repeat_ngram_size": 3}),
        None,
    ),
    "gpt2 captions": (
        image_to_text(IDS),
        {"bos_token_id": 7, "decoder_start_token_id": 7, "pad_token_id": 7, "eos_token_id": [7, 9]}
        | {"max_length": 16, "num_beams": 4},
    ),
    "sampling": (bart(), IDS | SAMPLING),
}


def loaded(config: dict, generation: dict | None) -> dict:
    """The options of a model that transformers loads from such a folder, as far as they are set."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        kind = getattr(transformers, config["architectures"][0])
        kind(kind.config_class.from_pretrained(folder)).save_pretrained(folder)
        Path(folder, "generation_config.json").unlink()
        Path(folder, "config.json").write_text(json.dumps(config))
        if generation is not None:
            Path(folder, "generation_config.json").write_text(json.dumps(generation))
        options = kind.from_pretrained(folder).generation_config.to_dict()
    return {
        name: value for name, value in options.items() if value is not None and name != "transformers_version"
    }


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = {
        name: {"config": config, "generation_config": generation, "options": loaded(config, generation)}
        for name, (config, generation) in CASES.items()
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    FILE.write_text("{\n" + lines + "\n}\n")
    print(f"{FILE}: {len(cases)} cases, {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
