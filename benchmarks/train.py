"""How long a training step takes: a ViT on generated images, with its layers scanned and written out.

python -m benchmarks.train --variant S/16 --batch 8
python -m benchmarks.train --variant B/16 --batch 256 --dtype bfloat16     on a GPU
"""

import argparse

import numpy as np

import vitjax  # noqa: F401  (its guard against miscompiling jaxlib releases comes first)
from benchmarks.measure import alternately, machine, write
from vitjax.analysis.complexity import complexity
from vitjax.data.config import DataConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig
from vitjax.training.state import init_state, make_setup
from vitjax.training.step import make_train_step


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--mesh", default="", help="data=4 and the like (all devices on data)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    calls, flops = {}, 0
    for name, unroll in (("scan", False), ("unrolled", True)):
        model = VisionTransformerConfig.standard(
            options.variant, num_classes=1000, transformer={"dtype": options.dtype, "unroll": unroll}
        )
        config = Config(
            name=name,
            model=model,
            data=DataConfig("imagenet2012"),
            train=TrainConfig(steps=1000, batch_size=options.batch),
            optimizer=OptimizerConfig(weight_decay=0.1, clip_norm=1.0),
        )
        calls[name] = _step(config, options.mesh)
        flops = options.batch * complexity(model, image_size=(224, 224)).training_flops
    times = alternately(calls, options.rounds)
    record = {
        "machine": machine(),
        "variant": options.variant,
        "batch": options.batch,
        "dtype": options.dtype,
        "mesh": options.mesh,
        "step_ms": times,
        "images_per_second": {name: 1e3 * options.batch / ms for name, ms in times.items()},
        "teraflops_per_second": {name: flops / ms / 1e9 for name, ms in times.items()},
    }
    print(f"{record['machine']['device']}, ViT-{options.variant}, batch {options.batch}, {options.dtype}")
    for name, ms in times.items():
        rate, speed = record["images_per_second"][name], record["teraflops_per_second"][name]
        print(f"{name:10} {ms:9.1f} ms a step  {rate:9.1f} images/s  {speed:8.3f} TFLOP/s")
    print(f"written to {write('train_' + options.variant.replace('/', '').lower(), record)}")


def _step(config: Config, mesh: str):
    """A call that makes one update of a state it keeps."""
    grid = make_mesh(MeshConfig.parse(mesh))
    setup = make_setup(config, grid)
    update = make_train_step(setup, grid)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (config.train.batch_size, 224, 224, 3), np.uint8),
        "label": rng.integers(0, 1000, config.train.batch_size).astype(np.int32),
    }
    state = init_state(setup)

    def call():
        nonlocal state
        state, metrics = update(state, batch)
        return metrics

    return call


if __name__ == "__main__":
    main()
