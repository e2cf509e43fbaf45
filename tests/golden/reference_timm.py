"""timm, imported without torchvision, and what its models are saved and asked for.

timm imports torchvision for its data loaders and for one norm that no model here has. A stand-in is there while timm is
imported and gone after, so that transformers does not take it for the real one.
"""

import importlib
import sys
import types
from contextlib import contextmanager
from pathlib import Path

from tests.golden.reference_case import Sizes, pixels, to_torch

STAND_INS = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")


class Anything(type):
    """A class with every attribute."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class StandIn(types.ModuleType):
    """A module with every class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


@contextmanager
def torchvision_stand_in():
    names = [f"torchvision{name}" for name in STAND_INS]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        sys.modules[name] = StandIn(name)
        if parent:
            setattr(sys.modules[parent], leaf, sys.modules[name])
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(kept)


with torchvision_stand_in():
    timm = importlib.import_module("timm")
    hub = importlib.import_module("timm.models._hub")


def vit_options(sizes: Sizes, **options) -> dict:
    """Arguments of timm.create_model that make one of its ViTs tiny; the architecture's name says the rest."""
    return {
        "embed_dim": sizes.width,
        "depth": sizes.layers,
        "num_heads": sizes.heads,
        "mlp_ratio": sizes.hidden / sizes.width,
        "patch_size": sizes.patch,
        "img_size": sizes.image,
        "num_classes": sizes.labels,
        **options,
    }


def saved(model, folder: Path):
    """Saves config.json and model.safetensors, as timm pushes them to the hub, and loads what users would."""
    hub.save_for_hf(model, folder, safe_serialization=True)
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def outputs(model, images, prefix: str = "") -> dict:
    tokens = model.forward_features(to_torch(images))
    found = {"pixels": images, "tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}
    if model.num_classes:
        found["logits"] = model.forward_head(tokens)
    return {prefix + name: value for name, value in found.items()}


def both_sizes(model, seed: int, sizes: Sizes) -> dict:
    small = outputs(model, pixels(seed, sizes.image, sizes.image))
    model.set_input_size(img_size=sizes.other)
    return small | outputs(model, pixels(seed, *sizes.other, 1), "other_")


def facts(model, **more) -> dict:
    name = f"timm {timm.__version__} {model.pretrained_cfg['architecture']}"
    return {"reference": f"{name} ({type(model).__name__})", **more}
