import pytest

from vitjax.decoding import GenerationConfig


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_return_sequences": 3, "num_beams": 2}, "raise num_beams"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"max_length": 0}, "max_length=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"min_length": -1}, "min_length=-1"),
        ({"eos_token_id": -1}, "eos_token_id=-1"),
        ({"eos_token_id": (2, 2)}, "twice"),
        ({"pad_token_id": -1}, "pad_token_id=-1"),
        ({"length_penalty": float("nan")}, "finite"),
        ({"repetition_penalty": 0.0}, "above 0"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "does not divide num_beams=4"),
        ({"num_beams": 4, "num_beam_groups": 2}, "set both or neither"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "set both or neither"),
        ({"diversity_penalty": -1.0}, "0 or more"),
        ({"forced_eos_token_id": [2, 3], "suppress_tokens": [3, 2]}, r"forbids all of \(2, 3\)"),
        ({"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0, "rules": "t5x"}, "transformers"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1"),
        ({"bad_words_ids": [[1], []]}, "empty sequence"),
        ({"bad_words_ids": [[1, -2]]}, "bad_words_ids=-2"),
        ({"suppress_tokens": [3, -1]}, "suppress_tokens=-1"),
    ],
)
def test_bad_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        GenerationConfig(**options)


def test_early_stopping_is_a_bool_or_never():
    with pytest.raises((ValueError, TypeError), match="never"):  # TypeError under the tests' own type checker
        GenerationConfig(early_stopping="always")


def test_no_room_after_the_prompt():
    with pytest.raises(ValueError, match="no room after a decoder prompt of 3 tokens"):
        GenerationConfig(max_length=3).limits(3)
    assert GenerationConfig(max_length=4).limits(3).maximum == 4


def test_minimum_above_maximum():
    with pytest.raises(ValueError, match="minimum length 9 is above the maximum length 8"):
        GenerationConfig(max_length=8, min_length=9).limits(1)


def test_lengths_without_the_prompt_go_first():
    config = GenerationConfig(max_length=100, max_new_tokens=5, min_length=90, min_new_tokens=2)
    assert config.limits(3) == (3, 8, 0, 5, 8)
    assert GenerationConfig().limits(1).maximum == 21  # 20 new tokens, as in transformers


def test_one_eos_id_is_a_tuple_of_one():
    assert GenerationConfig(eos_token_id=2) == GenerationConfig(eos_token_id=(2,))
    assert hash(GenerationConfig(eos_token_id=2)) == hash(GenerationConfig(eos_token_id=(2,)))
    assert GenerationConfig(eos_token_id=0).stop_ids == (0,)
    assert GenerationConfig().stop_ids == ()


def test_ids_are_kept_as_tuples():
    words = [[1], [2, 3]]
    config = GenerationConfig(bad_words_ids=words, suppress_tokens=[4], forced_eos_token_id=[2, 3])
    assert (config.bad_words_ids, config.suppress_tokens) == (((1,), (2, 3)), (4,))
    assert (config.begin_suppress_tokens, config.forced_eos_token_id) == ((), (2, 3))
    assert hash(config) == hash(GenerationConfig(**vars(config))) and config == GenerationConfig(
        **vars(config)
    )


@pytest.mark.parametrize(
    ("pad", "eos", "filler"), [(0, 2, 0), (7, 2, 7), (None, (3, 2), 3), (None, None, 0), (0, None, 0)]
)
def test_filler(pad, eos, filler):
    assert GenerationConfig(pad_token_id=pad, eos_token_id=eos).filler == filler


def test_start_id():
    assert GenerationConfig(bos_token_id=1).start_id == 1
    assert GenerationConfig(bos_token_id=1, decoder_start_token_id=0).start_id == 0
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        _ = GenerationConfig().start_id
