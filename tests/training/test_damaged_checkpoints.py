import logging
import random
import shutil

import pytest

from tests.training.states import array_file, assert_same, flip, listing, make_state, place
from vitjax.training.checkpoints import Checkpointer, restore


def test_every_flipped_bit_is_noticed_and_the_newest_intact_step_restored(saved, caplog):
    generator = random.Random(0)
    files = [path for path in place(saved, 3).rglob("*") if path.is_file()]
    for number in range(25):
        path = generator.choice(files) if number else array_file(saved, 3)
        content = path.read_bytes()
        flip(path, generator.randrange(len(content)))
        caplog.clear()
        with Checkpointer(saved) as checkpointer:
            state, metadata = checkpointer.restore(make_state())
        assert metadata["step"] == 2
        assert state["step"] == 2
        damaged = place(saved, 3, ".damaged")
        [record] = caplog.records
        relative = path.relative_to(place(saved, 3)).as_posix()
        assert record.levelno == logging.WARNING
        assert f"{saved}: step 3 is damaged ({relative}: " in record.getMessage()
        assert f"set aside as {damaged.name}" in record.getMessage()
        damaged.rename(place(saved, 3))  # mend it for the next try
        path.write_bytes(content)
    with Checkpointer(saved) as checkpointer:
        assert checkpointer.restore(make_state())[1]["step"] == 3


@pytest.mark.parametrize("what", ["truncated", "missing file", "missing seal", "missing arrays"])
def test_other_damage_falls_back_too(saved, caplog, what):
    match what:
        case "truncated":
            path = array_file(saved, 3)
            path.write_bytes(path.read_bytes()[:-10])
        case "missing file":
            array_file(saved, 3).unlink()
        case "missing seal":
            (place(saved, 3) / "seal.sha256").unlink()
        case "missing arrays":
            shutil.rmtree(place(saved, 3) / "arrays")
    with Checkpointer(saved) as checkpointer:
        assert checkpointer.restore(make_state())[1]["step"] == 2
    assert listing(saved) == ["step_00000001", "step_00000002", "step_00000003.damaged"]
    assert len(caplog.records) == 1


def test_fallback_goes_from_new_to_old_and_deletes_nothing(saved, caplog):
    flip(array_file(saved, 3))
    flip(array_file(saved, 2))
    place(saved, 3, ".damaged").mkdir()  # an earlier one
    with Checkpointer(saved) as checkpointer:
        state, metadata = checkpointer.restore(make_state())
        assert metadata["step"] == 1
        assert_same(state, make_state(1))
        assert [record.getMessage().split(": step ")[1][0] for record in caplog.records] == ["3", "2"]
        assert checkpointer.save(2, make_state(2))  # the damaged one is out of the way
    assert listing(saved) == [
        "step_00000001",
        "step_00000002",
        "step_00000002.damaged",
        "step_00000003.damaged",
        "step_00000003.damaged-2",
    ]


def test_nothing_intact_says_so(saved):
    for step in (1, 2, 3):
        flip(array_file(saved, step))
    with Checkpointer(saved) as checkpointer, pytest.raises(FileNotFoundError, match="all 3 are damaged"):
        checkpointer.restore(make_state())


def test_a_damaged_step_asked_for_by_number_is_not_replaced_in_silence(saved):
    flip(array_file(saved, 3))
    with Checkpointer(saved) as checkpointer:
        with pytest.raises(
            ValueError, match=r"step 3 is damaged \(arrays/.*; leave out the step to fall back"
        ):
            checkpointer.restore(make_state(), step=3)
        assert checkpointer.restore(make_state())[1]["step"] == 2


def test_a_copied_step_is_not_taken_for_another(saved):
    shutil.copytree(place(saved, 1), place(saved, 4))
    with Checkpointer(saved) as checkpointer:
        assert checkpointer.restore(make_state())[1]["step"] == 3


def test_a_reader_changes_nothing(saved, caplog):
    flip(array_file(saved, 3))
    with Checkpointer(saved) as writer:
        before = listing(saved)
        assert restore(saved, only=("params",))[1]["step"] == 2
        assert "passed over" in caplog.text
        assert listing(saved) == before
        writer.save(4, make_state(4))


def test_leftovers_of_a_killed_writer_are_cleared_by_the_next_but_not_by_a_reader(saved):
    for suffix in (".writing", ".deleting"):
        (place(saved, 7, suffix) / "arrays").mkdir(parents=True)
    (saved / "notes.writing").mkdir()  # not ours
    restore(saved, only=("params",))
    assert place(saved, 7, ".writing").exists()
    Checkpointer(saved).close()
    assert listing(saved) == ["notes.writing", "step_00000001", "step_00000002", "step_00000003"]
