"""A model generates as transformers has it generate from the same folder (golden/make_generation.py)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vitjax.decoding import GenerationConfig
from vitjax.weights.generation import read_generation, read_ids, write_generation

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "generation.json").read_text())
WEIGHTS = sorted(path.parent.name for path in GOLDEN.glob("weights/*/generation_config.json"))


def folder(path, config=None, generation=None):
    for name, fields in ("config", config), ("generation_config", generation):
        if fields is not None:
            text = fields if isinstance(fields, str) else json.dumps(fields)
            (path / f"{name}.json").write_text(text)
    return path


@pytest.mark.parametrize("name", CASES)
def test_as_transformers_reads_it(name, tmp_path):
    case = CASES[name]
    options = {
        key: case["options"][key] for key in case["options"] if key in GenerationConfig.__dataclass_fields__
    }
    expected = GenerationConfig(**options)
    found = read_generation(folder(tmp_path, case["config"], case["generation_config"]))
    assert found == expected
    ids = read_ids(tmp_path)
    assert (ids.start, ids.ends, ids.pad) == (expected.start_id, expected.stop_ids, expected.pad_token_id)


def test_the_cases_set_what_they_should():
    """Each option somewhere, at a value that is not its default."""
    default = GenerationConfig()
    seen = set()
    for case in CASES.values():
        seen |= {key for key, value in case["options"].items() if value != getattr(default, key, value)}
    ours = {
        "rules",
        "cache_dtype",
        "num_beam_groups",
        "diversity_penalty",
    }  # the last two left transformers with 5
    assert set(GenerationConfig.__dataclass_fields__) - ours <= seen


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_golden_checkpoints_have_one(name):
    fields = json.loads((GOLDEN / "weights" / name / "generation_config.json").read_text())
    config = read_generation(GOLDEN / "weights" / name)
    for key, value in fields.items():
        if key in GenerationConfig.__dataclass_fields__:
            expected = getattr(GenerationConfig(**{key: value}), key)
            assert getattr(config, key) == expected, key
    assert config.start_id == fields["decoder_start_token_id"]


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, tmp_path):
    case = CASES[name]
    config = read_generation(folder(tmp_path, case["config"], case["generation_config"]))
    written = write_generation(replace(config, cache_dtype="int8"))
    assert json.loads(json.dumps(written)) == written
    assert read_generation(folder(tmp_path, generation=written)) == config
    if case["generation_config"] is not None:  # and it says it in the same words
        said = {key: value for key, value in case["generation_config"].items() if value is not None}
        assert {**said, **written} == said


def test_nothing_said_is_the_default(tmp_path):
    assert read_generation(tmp_path) == GenerationConfig()
    assert read_ids(folder(tmp_path, {"decoder": None})) == (None, (), None)
    assert write_generation(GenerationConfig()) == {}
    off = {"encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1, "guidance_scale": 1.0}
    off |= {
        "sequence_bias": None,
        "stop_strings": None,
        "penalty_alpha": 0,
        "is_multilingual": True,
        "rules": "t5x",
    }
    assert read_generation(folder(tmp_path, generation=off)) == GenerationConfig()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size is 3, which vitjax does not do"),
        ({"exponential_decay_length_penalty": [5, 1.1]}, r"exponential_decay_length_penalty is \[5, 1.1\]"),
        ({"guidance_scale": 1.5}, "guidance_scale is 1.5"),
        ({"sequence_bias": [[[3], 2.0]]}, "sequence_bias is"),
        ({"stop_strings": ["a" * 500]}, "stop_strings is .{80}, which"),
        ({"num_beams": "four"}, "num_beams is 'four': "),
        ({"num_beams": 0}, "num_beams=0: expected 1 or more"),
        ({"eos_token_id": [2, None]}, r"eos_token_id is \[2, None\]: "),
        ({"bad_words_ids": [3]}, r"bad_words_ids is \[3\]: "),
        ({"do_sample": True, "num_beams": 4}, "do_sample=True with num_beams=4: sampling goes"),
        ({"early_stopping": "often"}, "early_stopping is 'often': "),
        ({"length_penalty": {}}, "length_penalty is {}: "),
        ("{", "is not JSON"),
        ("[]", "holds a list"),
    ],
)
def test_what_is_not_to_be_had_is_named_in_one_line(fields, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"generation_config.json:? {reason}") as refusal:
        read_generation(folder(tmp_path, {"decoder": 7}, fields))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400
    with pytest.raises(ValueError, match=r"config.json: the decoder's config is a int, expected an object"):
        (tmp_path / "generation_config.json").unlink()
        read_generation(tmp_path)


def test_rules_of_others_cannot_be_told_to_transformers():
    with pytest.raises(ValueError, match="rules='t5x' cannot be told in generation_config.json"):
        write_generation(GenerationConfig(rules="t5x"))
