"""Every case: importing the modules that define them adds them to CASES."""

import importlib

from tests.golden.reference_case import CASES

__all__ = ["CASES"]

for module in ("vit_hf", "vit_timm", "vit_npz", "image_to_text", "text_to_text"):
    importlib.import_module(f"tests.golden.reference_{module}")
