import numpy as np

from vitjax.studies.lab.sentences import LONGEST, SUBJECTS, VALUES, alike_in_length, sentences


def test_each_sentence_tells_the_answer_and_no_other():
    for examples in sentences(2, count=64):
        for sentence, answer in zip(examples.inputs, examples.answers, strict=True):
            asked, told = sentence[0] - 1, sentence[1:][sentence[1:] > 0] - 1 - SUBJECTS
            assert set(told[told // VALUES == asked] % VALUES) == {answer}


def test_lengths():
    _, held_out = sentences(LONGEST - 3, count=1)
    assert set((held_out.inputs > 0).sum(axis=1)) == {LONGEST - 2, LONGEST - 1, LONGEST, LONGEST + 1}
    assert (sentences(LONGEST, count=1)[1].inputs > 0).all()


def test_batches_alike_in_length():
    learned, _ = sentences(2, count=640)
    batches = alike_in_length(learned)(np.random.default_rng(0), (100, 8))
    lengths = (learned.inputs[batches] > 0).sum(axis=2)
    assert np.ptp(lengths, axis=1).max() <= 1 and len(set(lengths[:, 0])) > 10
