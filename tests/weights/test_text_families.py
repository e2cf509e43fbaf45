"""Families with text decoders: what their configs say and what is refused. Numbers: test_golden.py and
test_round_trips.py.
"""

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.weights.golden_cases import WEIGHTS
from vitjax.weights.bart import BART, MBART
from vitjax.weights.checkpoint import Checkpoint, open_checkpoint
from vitjax.weights.families import recognize
from vitjax.weights.family import Family
from vitjax.weights.folder import open_tensors
from vitjax.weights.gpt2 import GPT2
from vitjax.weights.marian import MARIAN
from vitjax.weights.t5 import T5
from vitjax.weights.translation import translate
from vitjax.weights.trocr import TROCR
from vitjax.weights.vision_encoder_decoder import VISION_ENCODER_DECODERS


@cache
def opened(name: str) -> Checkpoint:
    return open_checkpoint(WEIGHTS / name)


def fields_of(name: str, **changed: Any) -> dict[str, Any]:
    return json.loads((WEIGHTS / name / "config.json").read_text()) | changed


def config_of(family: Family, name: str, without: str = "", **changed: Any) -> Any:
    """The model that a golden folder would be with another config.json, or without some arrays."""
    specs = {
        array.removeprefix(family.prefix): spec
        for array, spec in open_tensors(WEIGHTS / name).specs.items()
        if not without or not re.search(without, array)
    }
    return family.read_config(fields_of(name, **changed), specs)


def test_t5_scales_its_scores_where_the_config_says_so_and_else_where_they_are_tied() -> None:
    for scaled in (True, False):
        config = config_of(T5, "t5", tie_word_embeddings=True, scale_decoder_outputs=scaled)
        assert config.decoder.scale_head is scaled and config.decoder.tie_embeddings
    assert not config_of(T5, "t5_v1_1").decoder.scale_head  # says tie_word_embeddings=False and nothing else
    assert not config_of(T5, "t5_v1_1").decoder.tie_embeddings
    assert config_of(T5, "t5_v1_1", without="lm_head").decoder.tie_embeddings
    old = {
        name: value for name, value in fields_of("t5").items() if "scale" not in name and "tie" not in name
    }
    assert T5.read_config(old, {}).decoder.scale_head


def test_t5_of_another_feed_forward_is_refused() -> None:
    with pytest.raises(ValueError, match="feed_forward_proj is 'gated-tanh': expected one of relu"):
        config_of(T5, "t5", feed_forward_proj="gated-tanh")


def test_a_decoder_as_deep_as_the_encoder_unless_told() -> None:
    assert config_of(T5, "t5_v1_1", num_decoder_layers=None).decoder.transformer.depth == 2


def test_bart_without_the_bias_of_its_scores_is_a_base_model() -> None:
    config = config_of(BART, "bart", without="final_logits_bias")
    assert not config.decoder.biases_head and config_of(BART, "bart").decoder.biases_head
    assert "final_logits_bias" not in [entry.theirs for entry in BART.entries(config)]


def test_marian_with_trained_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="static_position_embeddings is False: only True is supported"):
        config_of(MARIAN, "marian", static_position_embeddings=False)


def test_gpt2_that_divides_scores_by_the_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx is True"):
        GPT2.read_config({"scale_attn_by_inverse_layer_idx": True}, {})


def test_sinusoids_are_counted_from_behind_the_padding_token() -> None:
    config = TROCR.read_config({"use_learned_position_embeddings": False, "pad_token_id": 5}, {})
    assert (config.position_offset, config.padding_token, config.sinusoid) == (6, 5, "halves_inclusive")
    assert TROCR.write_config(config)["pad_token_id"] == 5


def test_an_unknown_half_is_named() -> None:
    fields = fields_of("vit_gpt2")
    (family,) = (each for each in VISION_ENCODER_DECODERS if each.recognizes(fields, {}))
    with pytest.raises(ValueError, match="its encoder is a 'swin': there are ViT, DeiT"):
        family.read_config(fields | {"encoder": {"model_type": "swin"}}, {})
    with pytest.raises(ValueError, match="decoder is None: expected the config of a model"):
        family.recognizes(fields | {"decoder": None}, {})
    with pytest.raises(ValueError, match="which vitjax does not read"):
        recognize(fields | {"decoder": {"model_type": "opt"}}, {}, "folder")


def test_widths_that_differ_need_a_layer_between_or_trocr() -> None:
    config = opened("trocr_handwritten").config
    trocr = next(each for each in VISION_ENCODER_DECODERS if each.name.endswith(" TrOCR"))
    assert trocr.write_config(config)["decoder"]["cross_attention_hidden_size"] == 24
    bart = next(each for each in VISION_ENCODER_DECODERS if each.name.endswith(" BART"))
    with pytest.raises(ValueError, match="BART needs project_context for 24 -> 30 features"):
        bart.write_config(config)


def test_an_encoder_that_was_trained_otherwise_is_written_all_the_same() -> None:
    checkpoint = opened("vit_gpt2")
    encoder = checkpoint.config.encoder
    trained = replace(encoder, transformer=replace(encoder.transformer, stochastic_depth=0.1))
    config = replace(checkpoint.config, encoder=trained)
    family, fields, _ = translate(config, *checkpoint.read(), "hf", prefer=checkpoint.family.name)
    assert family is checkpoint.family and fields["encoder"]["model_type"] == "vit"


@pytest.mark.parametrize("family", [BART, MBART, MARIAN, T5, *VISION_ENCODER_DECODERS])
def test_a_classifier_is_none_of_them(family: Family) -> None:
    with pytest.raises(ValueError, match="text"):
        family.write_config(opened("vit_hf").config)


def test_the_table_of_another_vocabulary_is_named(tmp_path) -> None:
    for file in (WEIGHTS / "t5").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(fields_of("t5", vocab_size=50)))
    with pytest.raises(
        ValueError, match=r"model.safetensors: shared.weight is float\d+\[60, 24\]: expected \[50, 24\]"
    ):
        open_checkpoint(tmp_path)
