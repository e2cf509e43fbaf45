"""DeiT as transformers writes it, with the distillation token: `DeiTModel`, `DeiTForImageClassification[WithTeacher]`.

The names of ViT (Touvron et al. 2021 changed its training), a token and perhaps a second head more. DeiT-III, which
has no such token, is published as timm's and as a ViT.
"""

from dataclasses import replace
from typing import Any

from vitjax.models.config import ModelConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.weights.family import Family, Fields, Specs, has_model_type
from vitjax.weights.fields import demand
from vitjax.weights.table import Entry
from vitjax.weights.torch_layers import linear
from vitjax.weights.vit import PRETRAINING, read_vit, vit_entries, write_fields


def read_deit(fields: Fields, specs: Specs) -> VisionTransformerConfig:
    """The model of a config.json."""
    demand(fields, pooler_act="tanh")
    head = specs.get("cls_classifier.weight") or specs.get("classifier.weight")
    return replace(
        read_vit(fields, specs),
        distillation_token=True,
        prefix_positions=2,
        num_classes=head.shape[0] if head else 0,
        distillation_head="distillation_classifier.weight" in specs,
    )


def write_deit(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_deit`."""
    if not isinstance(config, VisionTransformerConfig) or not config.distillation_token:
        raise ValueError("DeiT has a distillation token")
    model = "DeiTForImageClassification" if config.num_classes else "DeiTModel"
    if config.distillation_head:
        model = "DeiTForImageClassificationWithTeacher"
    return {"model_type": "deit", "architectures": [model], **write_fields(config)}


def deit_entries(config: VisionTransformerConfig) -> list[Entry]:
    """The whole table."""
    entries = [*vit_entries(replace(config, num_classes=0, distillation_head=False))]
    entries.append(Entry("embeddings.distillation_token", "distillation_token"))
    if config.distillation_head:
        entries += linear("cls_classifier", "head")
        entries += linear("distillation_classifier", "head_distillation")
    elif config.num_classes:
        entries += linear("classifier", "head")
    return entries


DEIT = Family(
    name="DeiT",
    format="hf",
    recognizes=has_model_type("deit"),
    read_config=read_deit,
    write_config=write_deit,
    entries=deit_entries,
    prefix="deit.",
    heads=("classifier.", "cls_classifier.", "distillation_classifier.", "decoder."),
    ignored=PRETRAINING,
)
