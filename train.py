"""Train a model: `python train.py --config configs/digit_strings.py --train.steps 500`.

The story of a run:

1. `configs/<name>.py` returns one frozen dataclass: model, data, optimizer, mesh.  (vitjax/training/config.py)
2. Flags change it, typed, and are refused with the nearest known key.          (vitjax/commands/overrides.py)
3. Processes find each other; the devices become a mesh.                         (vitjax/parallel/)
4. `fit` plans the state on the mesh; restores it, starts it from a checkpoint   (vitjax/training/start.py)
   (`--init DIR`) or at random; and steps:                                       (vitjax/training/loop.py)
   batch -> loss -> gradients -> update, one compiled program;                   (vitjax/training/step.py)
   metrics, evaluation and sealed checkpoints on the way.

It is the same program as `vitjax train`.
"""

import sys

from vitjax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
