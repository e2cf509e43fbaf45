"""A pickle that leaves a file behind when somebody opens it."""

import pickle
from pathlib import Path


class Trap:
    """Unpickling it creates the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def check_that_it_works(mark: Path) -> None:
    """A test that nothing sprang the trap must know that it could."""
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()
    mark.unlink()
