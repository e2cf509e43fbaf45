"""Every case: importing the modules that define them adds them to CASES."""

import importlib

from tests.golden.reference_case import CASES

__all__ = ["CASES"]

MODULES = "vit_hf vit_timm vit_npz beit_hf dino_hf towers_hf resnet image_to_text text_to_text"

for module in MODULES.split():
    importlib.import_module(f"tests.golden.reference_{module}")
