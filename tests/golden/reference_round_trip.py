"""What the reference computes from a folder that somebody else wrote, with the inputs of a case."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.golden.reference_case import to_torch
from tests.golden.reference_hf import loaded
from tests.golden.reference_timm import timm

NOT_READ = ("mask_token", "num_batches_tracked")


def computed(folder: Path, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name, of the model that the folder's config.json names."""
    return complete(folder, expected)[0]


def complete(
    folder: Path, expected: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The same, and the tensors that transformers missed, found too many or of another shape.

    Mask tokens, which stand for hidden patches in pretraining, and counts of training batches may be missing.
    """
    fields = json.loads((folder / "config.json").read_text())
    with torch.no_grad():
        if "architectures" not in fields:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            return arrays(of_timm(moved(model), expected)), {}
        model, told = loaded(getattr(transformers, fields["architectures"][0]), folder)
        missing = [name for name in told.pop("missing_keys", ()) if not name.endswith(NOT_READ)]
        found = (of_sequences if "decoder_tokens" in expected else of_images)(moved(model), expected)
        return arrays(found), told | ({"missing_keys": missing} if missing else {})


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Weights in memory of their own: in a file they lie otherwise, and torch may then sum in another order."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def of_timm(model, expected: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Hidden states, and logits of a classifier."""
    tokens = model.forward_features(to_torch(expected["pixels"]))
    return {"tokens": tokens} | ({"logits": model.forward_head(tokens)} if model.num_classes else {})


def of_sequences(model, expected: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Logits, and what the folder's own generation config generates."""
    if "pixels" in expected:
        given = {"pixel_values": to_torch(expected["pixels"])}
    else:
        mask = torch.from_numpy(expected["source_mask"]).long()
        given = {"input_ids": torch.from_numpy(expected["source"]).long(), "attention_mask": mask}
    logits = model(**given, decoder_input_ids=torch.from_numpy(expected["decoder_tokens"]).long()).logits
    return {"logits": logits, "generated_own": model.generate(**given)}


def of_images(model, expected: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Logits of a classifier, or hidden states."""
    if "spatial_shapes" in expected:
        names = {"pixel_values": "pixels", "pixel_attention_mask": "pixel_attention_mask"}
        given = {name: torch.from_numpy(expected[key]) for name, key in names.items()}
        given["spatial_shapes"] = torch.from_numpy(expected["spatial_shapes"]).long()
    else:
        given = {"pixel_values": to_torch(expected["pixels"])}
    if "logits" in expected:
        return {"logits": model(**given).logits}
    tower = getattr(model, "vision_model", model)
    if "mae" in model.config.model_type:
        tower, model.config.mask_ratio = getattr(model, "vit", model), 0.0
        given["noise"] = torch.arange(expected["tokens"].shape[1] - 1).expand(len(expected["pixels"]), -1)
    return {"tokens": tower(**given).last_hidden_state}


def arrays(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in found.items()}
