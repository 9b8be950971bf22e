import numpy as np
import pytest
import torch

from tracer.errors import RecordError
from tracer.schedule import STREAMS, Schedule, at, by_stream, epochs, every, log_spaced


def steps(schedule, upto=12, ends=()):
    return [step for step in range(upto) if schedule.due(step, step in ends)]


def test_every_counts_from_k():
    assert steps(every(5)) == [5, 10]


def test_epochs_are_ends_of_epochs():
    assert steps(epochs(), ends={4, 8}) == [4, 8]


def test_every_second_epoch_is_told_by_its_number_whatever_was_asked_before():
    schedule = epochs(2) | at([9])
    ends = [(4, 1), (4, 1), (8, 2), (8, 2), (12, 3), (8, 2), (9, 0), (10, 0)]
    wanted = [False, False, True, True, False, True, True, False]
    assert [schedule.due(step, epoch) for step, epoch in ends] == wanted


@pytest.mark.parametrize("five", [5, np.int64(5), np.array(5), torch.tensor(5)], ids=repr)
def test_whole_numbers_of_arrays_are_whole_numbers(five):
    assert [repr(made) for made in (every(five), epochs(five), at([five]))] == [
        "every(5)",
        "epochs(5)",
        "at([5])",
    ]
    assert repr(at(torch.tensor([7, 2]))) == repr(at(np.array([2, 7]))) == "at([2, 7])"


def test_union_keeps_both_and_prints_as_written():
    schedule = at([3]) | every(4) | log_spaced()
    assert steps(schedule) == [1, 2, 3, 4, 8]
    assert repr(schedule) == "at([3]) | every(4) | log_spaced()"


@pytest.mark.parametrize(
    "schedule",
    [
        *(every(1), every(5), at([0, 3, 9]), at([]), log_spaced(), epochs(), epochs(2)),
        *(at([7]) | every(4), epochs() | log_spaced()),
        every(3) | Schedule("odd", lambda step, _: step % 2 == 1),
    ],
    ids=repr,
)
def test_nothing_is_due_before_what_follows(schedule):
    asked, step = [], 0
    while step <= 40:
        asked.append(step)
        assert schedule.following(step) > step
        step = schedule.following(step)
    assert [step for step in steps(schedule, 41) if step not in asked] == []
    assert len(asked) <= len(steps(schedule, 41)) + 1 or "odd" in repr(schedule)


def test_each_stream_has_a_schedule():
    chosen = by_stream({"gradients": every(7), "default": at([1])})
    assert set(chosen) == set(STREAMS)
    assert repr(chosen["gradients"]) == "every(7)" and repr(chosen["weights"]) == "at([1])"
    assert repr(by_stream(None)["masks"]) == "epochs() | log_spaced()"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: every(0), "at least 1"),
        (lambda: at([-1]), "negative"),
        (lambda: epochs(0), "at least 1"),
        (lambda: every(2.5), "k is 2.5, expected a whole number"),
        (lambda: epochs(None), "every is None, expected a whole number"),
        (lambda: at(5), "steps is 5, expected several"),
        (lambda: at(None), "steps is None, expected several"),
        (lambda: at(["a"]), "step 'a' is no whole number"),
        (lambda: at([float("nan")]), "step nan is no whole number"),
        (lambda: at([1.5]), "step 1.5 is no whole number"),
        (lambda: every(5) | 5, "5 is no schedule, expected one such as"),
        (lambda: None | every(5), "None is no schedule, expected one such as"),
        (lambda: by_stream(5), "expected a schedule"),
        (lambda: by_stream({"gradient": every(2)}), "did you mean 'gradients'"),
        (lambda: by_stream({"masks": 3}), "expected a schedule"),
    ],
)
def test_bad_schedules_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(RecordError, match=sentence):
        make()
