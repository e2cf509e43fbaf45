"""`vitjax plan`: what a config will cost on a mesh, before anything is allocated."""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Sequence

from vitjax.commands.overrides import apply_overrides

EXAMPLE = """example:
  vitjax plan --config configs/imagenet_vit_b16.py --mesh data=4,fsdp=2 --train.batch_size 64
Where the machine has fewer devices than the mesh, they are simulated on its CPU.
"""


def main(arguments: Sequence[str]) -> int:
    """Print parameters, FLOPs a step, memory per device, and how each array is sharded and why."""
    parser = argparse.ArgumentParser(
        prog="vitjax plan",
        description="Compile a config ahead of time for a mesh; touches no data.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a Python file with get_config()")
    parser.add_argument("--init", metavar="DIR", help="a model to start from; its arrays are not read")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, overrides = parser.parse_known_args(arguments)

    import jax

    from vitjax.parallel.mesh import make_mesh
    from vitjax.training.plan import make_plan
    from vitjax.training.reading import describe
    from vitjax.training.recipe import load_config
    from vitjax.training.start import select

    init = describe(options.init) if options.init else None
    config = load_config(options.config, init)
    config = apply_overrides(config, overrides, prog="vitjax plan", flags=vars(options))
    if init is not None:
        select(config, init.only(config.init.part))
    needed = config.mesh.devices_needed
    if needed is not None:
        with contextlib.suppress(RuntimeError):  # JAX runs already: with the devices it has
            jax.config.update("jax_num_cpu_devices", needed)
    devices = jax.devices()
    if needed is not None and len(devices) < needed:
        devices = jax.devices("cpu")
    devices = devices[:needed]
    mesh = make_mesh(config.mesh, devices)
    plan = make_plan(config, mesh)
    if options.json:
        record = dataclasses.asdict(plan)
        record["arrays"] = [{**dataclasses.asdict(a), "spec": str(a.spec)} for a in plan.arrays]
        print(json.dumps({"mesh": dict(mesh.shape), "device": devices[0].device_kind, **record}))
        return 0
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    print(f"{config.name} on {len(devices)} x {devices[0].device_kind}: {axes}")
    print(f"parameters            {plan.parameters:,} ({plan.trainable:,} trained)")
    print(f"training state        {plan.state_bytes / 2**20:,.1f} MiB, each array counted once")
    print(f"a step of {config.train.batch_size:,} examples")
    every = ", if every parameter were trained" if config.train.freeze or config.lora.rank else ""
    print(f"  FLOPs, analytic     {plan.analytic_flops:.4g}{every}")
    if plan.xla_flops is not None:
        ratio = plan.xla_flops / plan.analytic_flops
        print(f"  FLOPs, XLA's count  {plan.xla_flops:.4g} ({ratio:.3f} of the analytic)")
    print("on each device")
    print(f"  state and batch     {plan.argument_bytes / 2**20:,.1f} MiB")
    print(f"  temporary           {plan.temporary_bytes / 2**20:,.1f} MiB")
    width = max(len(array.path) for array in plan.arrays)
    for array in plan.arrays:
        print(f"  {array.path:{width}} {array.shape!s:20} {array.spec!s:40} {array.reason}")
    return 0
