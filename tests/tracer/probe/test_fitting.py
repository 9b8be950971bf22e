"""What is taken of a probe where nobody said: into memory, into bytes beside the weights, into training steps."""

from dataclasses import replace

import pytest
import torch

from tracer.errors import RecordError
from tracer.probe import Probe
from tracer.probe.fitting import Fitted, batch_of, fit
from tracer.probe.memory import COPIES, WEIGHTS, object_bytes
from tracer.probe.needs import Needs, Work

STREAMS = ["outputs", "masks", "gradients"]
GB = 1 << 30


@pytest.fixture(autouse=True)
def _unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snapshot is an object: no memory is taken until one is full."""
    monkeypatch.setattr("tracer.probe.needs.object_bytes", lambda snapshots, memory: 0)


def needs(**changes: object) -> Needs:
    """A network of three units; masks take a byte an example, gradients 1,000 a unit."""
    known = Needs(
        stream=lambda stream, count: [count],
        exact=3000,
        sketch=10,
        gradients="gram",
        gram=lambda n: 0,
        flight=(20, 10),
        padded=0,
        held={("a",): 1000, ("b",): 1000, ("c",): 1000},
        chunks=(8, 64),
        weights=0,
        work=None,
        memory=GB,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def probes(n: int = 40, **capture: int) -> dict[str, Probe]:
    return {
        name: Probe(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64), split=name, capture=capture)
        for name in ("train", "test")
    }


def taken(fitted: Fitted, stream: str) -> list[int]:
    return [counts.get(stream, 0) for counts in fitted.counts.values()]


def test_what_fits_is_taken_whole_and_nothing_is_said() -> None:
    fitted = fit(probes(), STREAMS, needs())
    assert [taken(fitted, stream) for stream in STREAMS] == [[40, 40]] * 3
    assert len(fitted.groups) == 1 and fitted.notes == []


def test_sketches_where_inner_products_leave_too_few_examples() -> None:
    large = needs(gradients="auto", exact=GB, held={("a",): 10_000_000}, chunks=(4, 64), memory=200_000_000)
    inner = fit(probes(), STREAMS, replace(large, gradients="gram"))
    assert taken(inner, "gradients") == [8, 8] and inner.gradients == ("gram", "")
    fitted = fit(probes(), STREAMS, large)
    assert taken(fitted, "gradients") == [40, 40] and len(fitted.groups) == 1
    assert (
        fitted.gradients[0] == "sketch" and "of 8 examples of a probe, sketches for 40" in fitted.gradients[1]
    )
    assert "gradients='gram'" in fitted.notes[-1]
    # Where sketches have no more examples, or there are enough, exact inner products are better.
    assert fit(probes(8), STREAMS, large).gradients == ("auto", "")
    assert fit(probes(), STREAMS, replace(large, memory=600_000_000)).gradients == ("auto", "")
    with pytest.raises(RecordError):
        fit(probes(gradients=40), STREAMS, replace(large, gradients="gram"))
    assert fit(probes(gradients=40), STREAMS, large).gradients[0] == "sketch"


def test_layers_go_in_groups_before_any_example_is_left_out() -> None:
    # 80 examples of 1,000 bytes a unit: 240 kB together.
    fitted = fit(probes(), STREAMS, needs(memory=330_000))
    assert taken(fitted, "gradients") == [40, 40]
    assert fitted.groups == [[("c",), ("b",)], [("a",)]]
    (note,) = fitted.notes
    assert "2 groups of layers" in note and "memory=" in note


def test_then_fewer_examples_have_gradients() -> None:
    fitted = fit(probes(), STREAMS, needs(memory=60_000))  # one unit of 80 examples alone takes 80 kB
    assert taken(fitted, "gradients") == [16, 16] and taken(fitted, "outputs") == [40, 40]
    assert "Gradients of 16 examples of a probe are recorded, not of 40" in fitted.notes[0]
    assert "capture={'gradients': 40}" in fitted.notes[0]


def test_what_was_asked_for_is_taken_or_refused_with_a_number_that_fits() -> None:
    fitted = fit(probes(gradients=40), STREAMS, needs(memory=240_000))
    assert taken(fitted, "gradients") == [40, 40] and len(fitted.groups) == 3
    with pytest.raises(
        RecordError, match=r"more than memory=58.6 KiB.*\(16 examples of each probe would fit\)"
    ):
        fit(probes(gradients=40), STREAMS, needs(memory=60_000))


def test_objects_that_several_snapshots_fill_are_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 1 MiB, 8 snapshots share an object, of 3 MiB two, of 4 MiB none; weights of 100 bytes fill one of 512.
    monkeypatch.setattr("tracer.probe.needs.object_bytes", object_bytes)
    sizes = {"outputs": [1 << 20, 3 << 20], "masks": [4 << 20]}
    known = needs(stream=lambda stream, count: sizes[stream], weights=100, flight=(0, 0))
    counts = {"train": {"outputs": 1, "masks": 1}}
    parts = known.parts(counts)
    assert parts["outputs of probe 'train'"] == (4 + 8 + 6) << 20
    assert parts["masks of probe 'train'"] == 4 << 20 == parts[COPIES]
    assert parts[WEIGHTS] == 512 * 100 and sum(parts.values()) == (26 << 20) + 51_200
    # Of 64 MiB they may be an eighth: objects of 4 MiB, which hold four of 1 MiB and none of 3.
    less = replace(known, memory=64 << 20)
    assert less.object_bytes(counts) == 4 << 20
    assert less.parts(counts)["outputs of probe 'train'"] == (4 + 4) << 20
    assert less.parts(counts)[WEIGHTS] == 512 * 100


def test_a_snapshot_takes_a_few_training_steps() -> None:
    # Five steps of ten examples are 150 passes; 80 examples, and 80 with gradients, would be 320.
    work = Work(example=10**9, rows=0, batch=10)
    fitted = fit(probes(), STREAMS, needs(work=work))
    assert taken(fitted, "gradients") == [8, 8] and taken(fitted, "outputs") == [40, 40]
    assert needs(work=work).cost(fitted.counts) == (80 - 16 + 4 * 16) * 10**9 <= 5 * work.step
    assert "longer than 5 training steps" in fitted.notes[0]
    twice = fit(probes(), STREAMS, needs(work=work), cost=10)
    assert sum(taken(twice, "gradients")) > 16
    asked = fit(probes(gradients=40), STREAMS, needs(work=work))
    assert taken(asked, "gradients") == [40, 40] == taken(asked, "outputs")


def test_small_networks_are_not_counted_in_steps() -> None:
    fitted = fit(probes(), STREAMS, needs(work=Work(example=1000, rows=5, batch=1)))
    assert taken(fitted, "gradients") == [40, 40]


def test_exact_gradients_and_masks_take_little_beside_the_weights() -> None:
    much = needs(gradients="auto", exact=400_000, weights=0, stream=lambda stream, count: [100_000 * count])
    fitted = fit(probes(100), ["masks", "gradients"], much)
    assert taken(fitted, "gradients") == [16, 16] and taken(fitted, "masks") == [64, 64]
    assert "over 6.0 MiB a snapshot" in fitted.notes[0]
    assert taken(fit(probes(100, gradients=100), ["gradients"], much), "gradients") == [100, 100]


def test_gradients_that_are_only_multiplied_are_no_bytes() -> None:
    many = needs(gradients="auto", exact=10**8, weights=0)
    assert taken(fit(probes(), STREAMS, many), "gradients") == [40, 40]


def test_a_training_step_has_fewer_sequences_than_images() -> None:
    images = torch.zeros(3, 4)
    assert batch_of(Probe(images, torch.zeros(3, dtype=torch.int64))) == 64
    assert batch_of(Probe(images, images)) == 64
    assert [batch_of(Probe(images, torch.zeros(3, t, dtype=torch.int64))) for t in (64, 2000)] == [16, 8]
