import numpy as np

from vitjax.studies.lab.paper import PAPER, on_paper, printed_digits, real_digits, shifted
from vitjax.studies.lab.training import Examples


def test_images_move_in_four_directions():
    dot = np.zeros((4, 8, 8), np.float32)
    dot[:, 3, 3] = 1.0
    moved = shifted(Examples(on_paper(dot, PAPER), np.arange(4)), 2)
    assert [tuple(map(int, place[1:3])) for place in np.argwhere(moved.inputs)] == [
        (5, 7),
        (9, 7),
        (7, 5),
        (7, 9),
    ]


def test_printed_digits_look_like_real_ones():
    """The printed one that is nearest to a real one is often the same digit; by chance it is one in ten."""
    real, printed = real_digits()[1], printed_digits(20, np.random.default_rng(0))
    assert printed.inputs.shape == (20 * 10 * 8, PAPER, PAPER, 1) and set(printed.answers) == set(range(10))
    some, others = (each.inputs.reshape(len(each.inputs), -1) for each in (real, printed))
    nearest = ((others**2).sum(axis=1) - 2 * some @ others.T).argmin(axis=1)
    assert (printed.answers[nearest] == real.answers).mean() > 0.3

    copies, answers = others.reshape(8, 200, -1), printed.answers.reshape(8, 200)
    assert (answers == answers[0]).all() and np.ptp(copies, axis=0).max(axis=-1).min() > 0.1
