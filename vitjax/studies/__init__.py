"""The laboratory: textbook claims about Transformers, each measured by a small experiment (`vitjax study`).

To add one, write a module like `vitjax.studies.residual` and put its `STUDY` into `STUDIES`.
"""

from vitjax.studies import (
    add_or_concat,
    attention_maps,
    beam_width,
    complexity,
    dot_or_additive,
    feed_forward,
    heads,
    layernorm_or_batchnorm,
    masking,
    parallel,
    positions,
    residual,
    scaling,
    separate_query_key,
    transformer_or_lstm,
    vit_or_cnn,
)

STUDIES = (
    scaling.STUDY,
    separate_query_key.STUDY,
    dot_or_additive.STUDY,
    heads.STUDY,
    positions.STUDY,
    add_or_concat.STUDY,
    layernorm_or_batchnorm.STUDY,
    residual.STUDY,
    masking.STUDY,
    feed_forward.STUDY,
    parallel.STUDY,
    complexity.STUDY,
    vit_or_cnn.STUDY,
    transformer_or_lstm.STUDY,
    beam_width.STUDY,
    attention_maps.STUDY,
)
