import json

from vitjax.api import load
from vitjax.parallel.paths import named_leaves


def test_a_classifier(vitjax, classes_run):
    code, out, err = vitjax("inspect", classes_run, "--json", "--arrays")
    assert (code, err) == (0, "")
    record = json.loads(out)
    model = load(classes_run)
    sizes = {name: leaf.size for name, leaf in named_leaves(model.params).items()}
    assert record["model"] == "vision_transformer"
    assert record["steps"] == [4, 8]
    assert record["parameters"] == sum(sizes.values())
    assert record["trainable"] == record["parameters"] - sizes["positions/embedding"]
    assert record["averaged"]
    assert record["data"]["dataset"] == "digits/1.0.0"
    assert record["data"]["examples"] == 1437
    assert record["preprocess"]["image_size"] == [8, 8]
    assert "tokenizer" not in record
    assert record["config"]["train"]["freeze"] == ["positions/.*"]
    assert record["arrays"]["params/head/kernel"] == {"shape": [32, 10], "dtype": "float32"}
    assert "frozen/positions/embedding" in record["arrays"]


def test_in_words(vitjax, strings_run):
    code, out, err = vitjax("inspect", strings_run)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{strings_run}: encoder_decoder, ")
    assert lines[1] == "checkpoints at steps 4, 8"
    assert lines[2] == "data digit_strings/16x64/1.0.0[train], 300 examples"
    assert lines[3].startswith("preprocess image_size (16, 64)")
    assert lines[4] == "tokenizer kind characters, alphabet 0123456789"
    _, longer, _ = vitjax("inspect", strings_run, "--arrays")
    assert "  params/decoder/embedding/tokens/embedding float32[13, 32]" in longer.splitlines()


def test_text_has_no_preprocessing(vitjax, words_run):
    record = json.loads(vitjax("inspect", words_run, "--json").out)
    assert "preprocess" not in record
    assert record["tokenizer"]["kind"] == "characters"
