"""Results are kept block by block and never stale: what is computed again, and what is not."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyze
from analyze.contract import metric
from analyze.engine import incremental
from analyze.engine.blocks import Worker, blocks_of
from analyze.engine.cost import few
from analyze.engine.fingerprint import Fingerprints, digest_of_sources, digest_of_value
from analyze.engine.plan import make_plan
from analyze.engine.replayed import with_activations
from analyze.reference import FORT_2019
from tests import contract
from tests.synthetic import write_archive
from tracer.archive import open as open_archive
from tracer.archive import ranks
from tracer.archive.digests import Digests
from tracer.archive.source import Source
from tracer.errors import MissingTraceError

GROWING = ["stiffness", "margin", "generalization", "cna", "path_self_similarity", "correctness", "tracin"]
OTHERS = [
    "class_stiffness", "depth_slope", "cna_area", "grand", "el2n", "path_cross_similarity", "path_patterns",
]  # fmt: skip
LAST = 24
AT_ONCE = ["complexity", "forgetting"]  # one value a run, or of every snapshot at once, as their cards say


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "run.zarr"
    write_archive(path, steps=range(LAST + 1), probes={"train": 8, "test": 6}, n_gradients=4)
    return path


@pytest.fixture(scope="module")
def real(everything):
    return everything


@pytest.fixture
def computed(monkeypatch):
    """Counts of (metric, step) computed."""
    seen = Counter()
    original = Worker.compute

    def compute(self, block):
        seen.update((name, step) for name in block.names for step in block.steps or (None,))
        return original(self, block)

    monkeypatch.setattr(Worker, "compute", compute)
    return seen


def until(path, step):
    """The archive as it was when an update was committed."""
    archive = open_archive(path)
    ranks.cut(archive._source, step)
    return archive


def same(first, second):
    for name in first:
        left, right = (data[name].drop_attrs(deep=False) for data in (first, second))
        xr.testing.assert_identical(left, right)
    return set(first) == set(second)


@pytest.mark.parametrize(
    "growing", [GROWING, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"]
)
def test_one_more_snapshot_costs_one_snapshot(path, tmp_path, computed, growing):
    analyze.run(until(path, LAST - 1), [*growing, *AT_ONCE], output=tmp_path)
    before = Counter(computed)
    assert sum(before[name, LAST - 2] + before[name, LAST - 4] for name in growing) >= len(growing)
    computed.clear()
    grown = analyze.run(path, [*growing, *AT_ONCE], output=tmp_path)
    again = {name: [step for one, step in computed if one == name] for name in growing}
    assert all(steps == [LAST] for steps in again.values()), again
    assert [sum(name == one for one, _ in computed) for name in AT_ONCE] == [0, LAST + 1]
    assert same(analyze.run(path, [*growing, *AT_ONCE]), grown)


def test_one_more_snapshot_runs_the_network_at_that_one_alone(real, tmp_path, computed):
    *_, before, last = (int(step) for step in open_archive(real).steps("weights"))
    names = ["jacobian", "sam_sharpness"]
    analyze.run(until(real, before), names, output=tmp_path, snapshots="all")
    assert computed["jacobian", before] == 1
    computed.clear()
    grown = analyze.run(real, names, output=tmp_path, snapshots="all")
    assert computed == {(name, last): 1 for name in names}
    assert same(analyze.run(real, names, snapshots="all"), grown)


def test_a_comparison_in_time_reads_two_snapshots(path, tmp_path, monkeypatch):
    analyze.run(until(path, LAST - 1), ["path_self_similarity"], output=tmp_path, snapshots="all")
    reads = []
    original = Source.snapshot
    monkeypatch.setattr(
        Source,
        "snapshot",
        lambda self, path, step, *rest: reads.append(step) or original(self, path, step, *rest),
    )
    analyze.run(path, ["path_self_similarity"], output=tmp_path)
    ends = [step for step in open_archive(path).epoch_ends if step < LAST]
    assert set(map(int, reads)) == {int(ends[-1]), LAST}


def test_a_sum_goes_on(path, tmp_path, computed):
    analyze.run(until(path, 12), ["tracin"], output=tmp_path)
    computed.clear()
    found = analyze.run(path, ["tracin"], output=tmp_path)
    assert sorted(step for _, step in computed) == list(range(13, LAST + 1))
    assert same(analyze.run(path, ["tracin"]), found)


def test_an_interrupted_analysis_goes_on(path, tmp_path, computed, monkeypatch):
    monkeypatch.setattr(incremental, "SAVE_EVERY", 0.0)
    monkeypatch.setattr("analyze.engine.blocks._REUSED", 1)  # eight snapshots a block

    def progress(done, total, text):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze.run(path, ["stiffness"], output=tmp_path, progress=progress)
    computed.clear()
    found = analyze.run(path, ["stiffness"], output=tmp_path)
    assert sorted(step for _, step in computed) == list(range(16, LAST + 1))
    assert same(analyze.run(path, ["stiffness"]), found)


def test_what_a_snapshot_does_not_touch_is_kept_and_says_of_which_commit_it_is(real, tmp_path, computed):
    early = until(real, int(open_archive(real).epoch_ends[-2]))
    analyze.run(early, ["complexity", "el2n"], output=tmp_path)
    computed.clear()
    found = analyze.run(real, ["complexity", "el2n"], output=tmp_path)
    assert {name for name, _ in computed} == {"el2n"}
    assert {data.attrs["archive_digest"] for data in found.values()} == {open_archive(real).digest}
    stored = analyze.load(tmp_path)
    assert {data.attrs["archive_digest"] for data in stored.values()} == {open_archive(real).digest}


def test_functions_of_a_replay_count_by_what_they_do(real, tmp_path, computed):
    def scaled(factor):
        return lambda: (np.zeros(3) * factor, np.zeros(3))

    for factor, again in ((1, True), (1, False), (2, True)):
        computed.clear()
        analyze.run(real, ["jacobian"], output=tmp_path, replay={"data": scaled(factor)})
        assert bool(computed) == again


def test_no_array_is_read_that_no_fingerprint_covers(real, monkeypatch):
    archive = with_activations(open_archive(real), {})
    covered, read = set(), set()
    of, part = Digests.of, Source.read

    def noted(self, group, step=None):
        covered.add((group, step))
        return of(self, group, step)

    def reading(self, path, selection=()):
        group = path.rpartition("/")[0]
        first = selection[0] if isinstance(selection, tuple) and selection else selection
        if group in self.streams() and not path.endswith(("/step", "/epoch_end")):
            rows = self.steps(group)
            read.update((group, int(step)) for step in np.atleast_1d(rows[first] if first != () else rows))
        elif group not in (*self.streams(), "steps", "minibatch", "manifest"):
            read.add((group, None))
        return part(self, path, selection)

    def network(self, step, original=Fingerprints._network):
        covered.add(("network", None))
        return original(self, step)

    monkeypatch.setattr(Fingerprints, "_network", network)
    monkeypatch.setattr(Digests, "of", noted)
    monkeypatch.setattr(Source, "read", reading)
    done, prints, checked = {}, Fingerprints(archive, {}), 0
    for level in (
        {"complexity", "depth_slope", "margin", "generalization", "correctness"},
        analyze.available_metrics(),
    ):
        for name in sorted(level):
            archive = with_activations(open_archive(real), {})
            prints._archive = archive
            try:
                plan = make_plan(
                    analyze.available_metrics()[name], contract.QUICK.get(name, {}), archive, done
                )
            except MissingTraceError:
                continue
            if plan.replays:
                plan.steps = few(plan.steps, 2)
            covered.clear()
            prints.know(name, prints.of(plan))
            if plan.replays and plan.whole:
                continue  # depends on the whole archive
            for probe in archive.probes.values():  # read by the plan itself, and the same for all
                _ = probe.ids, probe.split
            worker, read_before = Worker(archive), read.clear()
            for block in blocks_of([plan], archive, 1 << 40, {}):
                outcome = worker.compute(block)[name]
                assert not outcome.message, outcome.message
            assert read_before is None and read <= covered, (name, read - covered)
            checked += bool(read)
        done = dict(analyze.run(archive, sorted(level))) if len(level) < 10 else done
    assert checked > 30


def test_the_digest_of_sources_changes_with_any_file(tmp_path):
    home = Path(analyze.__path__[0])
    names = ["numerics/__init__.py", "metrics/gradients/stiffness.py", "replay/state.py", "new.py"]
    for name in names[:3]:
        target = tmp_path / "analyze" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((home / name).read_bytes())
    digests = [digest_of_sources([tmp_path / "analyze"])]
    for name in names:
        with (tmp_path / "analyze" / name).open("a") as file:
            file.write("# changed\n")
        digests.append(digest_of_sources([tmp_path / "analyze"]))
    (tmp_path / "analyze" / "new.py").rename(tmp_path / "analyze" / "newer.py")
    digests.append(digest_of_sources([tmp_path / "analyze"]))
    assert len(set(digests)) == len(names) + 2


def test_sources_of_both_packages_count(monkeypatch, path, tmp_path, computed):
    analyze.run(path, ["margin"], output=tmp_path)
    computed.clear()
    monkeypatch.setattr("analyze.engine.fingerprint.sources", lambda: "another version")
    analyze.run(path, ["margin"], output=tmp_path)
    assert len(computed) == LAST + 1


def test_values_of_settings():
    def made(value):
        return lambda: value

    class Factory:
        def __init__(self, n):
            self.n = n

        def __call__(self):
            return self.n

    alike = [lambda: made([1, "a"]), lambda: made(np.ones(3)), lambda: partial(print, 1), lambda: Factory(2)]
    for make in alike:
        assert digest_of_value(make()) == digest_of_value(make())
    unlike = [made(1), made(2), made(np.ones(3)), made(np.zeros(3)), made(np.zeros(3, np.float32)), Factory(1),
              Factory(2), partial(print, 1), partial(print, 2), lambda: 1, lambda: 2]  # fmt: skip
    assert len({digest_of_value(value) for value in unlike}) == len(unlike)
    endless = iter([])
    assert digest_of_value(endless) != digest_of_value(endless), (
        "what cannot be looked into is never the same"
    )


def test_a_failing_metric_keeps_nothing(path, tmp_path):
    def moody(losses):
        """Fails."""
        raise ValueError("no")

    metric(reads=("losses",), variables={"a": ("step",)}, title="M", reference=FORT_2019)(moody)
    for _ in range(2):
        with pytest.raises(analyze.errors.AnalysisError):
            analyze.run(path, [moody], output=tmp_path)
