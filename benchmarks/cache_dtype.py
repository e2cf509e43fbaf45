"""What keeping keys and values in fewer bits does to the tokens of a trained run.

    python -m benchmarks.cache_dtype runs/demo      needs vitjax with its data stack, and a run that reads images

Every held-out image is decoded with the cache in float32, bfloat16 and int8, greedily and with beams: how many
sequences stay what they were, how many are right, how far their scores move, and what the cache takes.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from benchmarks.measure import machine, write
from vitjax.api import load
from vitjax.data.pipeline import eval_batches
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import decode, encode
from vitjax.decoding.sequences import Sequences
from vitjax.nn.functional import merge
from vitjax.training.runs import load_run_config

DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    """Decode, compare, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--data-dir", help="where prepared datasets lie, if not where they were in training")
    options = parser.parse_args()

    model = load(options.run)
    data = load_run_config(options.run).data
    if options.data_dir:
        data = replace(data, data_dir=options.data_dir)
    assert model.preprocess is not None and model.tokenizer is not None
    definition, params, stats = model.definition, model.params, model.stats
    bits: dict[str, int] = {}
    rows = []
    for beams in options.beams:
        written: dict[str, list[Sequences]] = {dtype: [] for dtype in DTYPES}
        texts: list[str] = []
        for batch in eval_batches(data, batch_size=200):
            encoded = encode(definition, params, model.preprocess.normalize(batch["image"]), stats=stats)
            kept = np.asarray(batch["mask"])
            texts += model.tokenizer.decode_batch(np.asarray(batch["tokens"])[kept])
            for dtype in DTYPES:
                config = replace(model.generation, num_beams=beams, cache_dtype=dtype)
                out = decode(definition, params, encoded, stats=stats, config=config)
                written[dtype].append(out.cut(int(kept.sum()), 0, out.tokens.shape[2]))
                bits[f"{dtype}, {beams} beams"] = _cache_bytes(model, encoded, config)
        exact = _joined(written["float32"], "tokens")
        for dtype in DTYPES:
            tokens, scores = _joined(written[dtype], "tokens"), _joined(written[dtype], "scores")
            rows.append(
                {
                    "beams": beams,
                    "cache_dtype": dtype,
                    "sequences": len(tokens),
                    "same": int((tokens == exact).all(axis=-1).sum()),
                    "right": sum(map(str.__eq__, model.tokenizer.decode_batch(tokens), texts)),
                    "score_moves": float(np.abs(scores - _joined(written["float32"], "scores")).max()),
                    "bytes_a_row": bits[f"{dtype}, {beams} beams"],
                }
            )
    print(f"{'beams':>5} {'cache':>9} {'same':>12} {'right':>12} {'score moves':>12} {'bytes a row':>12}")
    for row in rows:
        print(
            f"{row['beams']:5} {row['cache_dtype']:>9} {row['same']:6} {row['same'] / row['sequences']:5.1%} "
            f"{row['right']:6} {row['right'] / row['sequences']:5.1%} {row['score_moves']:12.5f} "
            f"{row['bytes_a_row']:12,}"
        )
    print(f"written to {write('cache_dtype', {'machine': machine(), 'rows': rows})}")


def _joined(parts: list[Sequences], name: str) -> np.ndarray:
    """Of the best sequence of every row."""
    return np.concatenate([getattr(part, name)[:, 0] for part in parts])


def _cache_bytes(model, encoded, config: GenerationConfig) -> int:
    """Bytes of keys and values, scales included, that one row takes."""

    def layers(params):
        decoder = merge(model.definition, params, model.stats)
        length = config.limits(1).maximum
        return decoder.init_cache(
            encoded, num_beams=config.num_beams, max_length=length, dtype=config.cache_dtype
        ).layers

    shapes = jax.tree.leaves(jax.eval_shape(layers, model.params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes) // jax.tree.leaves(encoded)[0].shape[0]


if __name__ == "__main__":
    main()
