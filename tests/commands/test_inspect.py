import json
import shutil

from tests.weights.golden_cases import WEIGHTS
from vitjax.api import load
from vitjax.parallel.paths import named_leaves
from vitjax.saved import save


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
    assert lines[0] == f"{strings_run}: a run of vitjax train, encoder_decoder"
    assert lines[1:3] == [
        "model encoder_decoder",
        "sizes encoder 2 pre-norm layers of width 32, 8 heads, feed-forward 64 gelu; 16x8 patches of 16x64 images, 1 "
        "channels, learned positions; no head; decoder 2 pre-norm layers of width 32, 8 heads, feed-forward 64 gelu; "
        "13 tokens, learned positions up to 8",
    ]
    assert "steps 4, 8" in lines and "tokenizer kind characters, alphabet 0123456789" in lines
    assert any(
        line.startswith("data dataset digit_strings/16x64/1.0.0, split train, examples 300") for line in lines
    )
    assert any(line.startswith("preprocess image_size (16, 64)") for line in lines)
    _, longer, _ = vitjax("inspect", strings_run, "--arrays")
    assert "  params/decoder/embedding/tokens/embedding float32[13, 32]" in longer.splitlines()


def test_text_has_no_preprocessing(vitjax, words_run):
    record = json.loads(vitjax("inspect", words_run, "--json").out)
    assert "preprocess" not in record
    assert record["tokenizer"]["kind"] == "characters"


def test_a_checkpoint(vitjax):
    code, out, err = vitjax("inspect", WEIGHTS / "clip_hf_full", "--json", "--arrays")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["what"] == "CLIP image tower, fully supported" and record["supported"]
    model = load(WEIGHTS / "clip_hf_full")
    assert record["parameters"] == sum(leaf.size for leaf in named_leaves(model.params).values())
    assert record["preprocess"]["image_size"] == list(model.preprocess.image_size)
    texts = record["ignored"]["the text tower, of which images need nothing"]
    assert texts and all(name.startswith("text_") for name in texts)
    assert "visual_projection.weight" in record["arrays"]
    code, words, _ = vitjax("inspect", WEIGHTS / "clip_hf_full")
    assert words.splitlines()[0] == f"{WEIGHTS / 'clip_hf_full'}: CLIP image tower, fully supported"


def test_a_checkpoint_of_no_known_kind(vitjax, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(WEIGHTS / "vit_hf", folder)
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"model_type": "perceiver"}))
    (folder / "LICENSE").write_text("\nApache License\nVersion 2.0\n")
    code, out, err = vitjax("inspect", folder, "--json")
    assert (code, err) == (0, "")
    seen = json.loads(out)
    assert not seen["supported"] and "of the kind 'perceiver', which vitjax does not read" in seen["why"]
    assert seen["files"]["arrays"] == 40 and seen["licence"].startswith("\nApache")
    _, words, _ = vitjax("inspect", folder)
    assert words.splitlines()[-1] == "licence Apache License / Version 2.0"


def test_a_truncated_checkpoint(vitjax, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(WEIGHTS / "vit_hf", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    code, out, err = vitjax("inspect", folder)
    assert code == 1 and not out and "model.safetensors" in err and err.count("\n") == 1


def test_a_saved_model(vitjax, tmp_path):
    save(load(WEIGHTS / "vit_npz" / "vit.npz"), tmp_path / "own")
    _, out, _ = vitjax("inspect", tmp_path / "own", "--json", "--arrays")
    record = json.loads(out)
    assert record["what"] == "a model saved by vitjax, first read as vision_transformer .npz"
    assert "params/blocks/attention/query/kernel" in record["arrays"]
