import json
import tracemalloc

import numpy as np
import pytest
import xarray as xr

import analyze
from analyze.arrays.lag import compared
from analyze.contract import metric
from analyze.engine import blocks
from analyze.engine.assemble import added
from analyze.engine.blocks import Worker, blocks_of
from analyze.engine.plan import make_plan
from analyze.errors import AnalysisError
from analyze.metrics.paths.path_cross_similarity import path_cross_similarity
from analyze.metrics.paths.path_patterns import path_patterns
from analyze.reference import FORT_2019
from analyze.results import load
from tests.dying import fails_late
from tests.fake_archive import fake_archive
from tests.synthetic import write_archive
from tracer.archive import Archive
from tracer.archive import open as open_archive
from tracer.errors import ArchiveError, MissingTraceError, parse_memory

GRAM = ["stiffness", "class_stiffness", "layer_stiffness"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "run.zarr"
    write_archive(path, steps=(0, 1, 2, 4, 8, 12))
    return path


def broken(losses):
    """Always fails."""
    raise ValueError("no luck")


broken = metric(reads=("losses",), variables={"a": ("step",)}, title="Broken", reference=FORT_2019)(broken)


def wrong_shape(losses):
    """Returns another shape than announced."""
    return {"a": losses}


wrong_shape = metric(reads=("losses",), variables={"a": ("step",)}, title="W", reference=FORT_2019)(
    wrong_shape
)


def same(first, second):
    """Whether two sets of results agree in every bit, apart from when they were made."""
    for name in first:
        left, right = (data[name].drop_attrs(deep=False) for data in (first, second))
        xr.testing.assert_identical(left, right)
    return set(first) == set(second)


def test_results_carry_coordinates_and_provenance(path):
    results = analyze.run(path, ["stiffness", "path_self_similarity"])
    data, archive = results["stiffness"], open_archive(path)
    assert list(results) == ["stiffness", "path_self_similarity"]
    assert data["step"].values.tolist() == [0, 1, 2, 4, 8, 12]
    assert data["epoch"].values.tolist() == [archive.epoch_of(step) for step in data["step"].values]
    assert data["layer"].values.tolist() == [*archive.layers, "all"]
    assert (data.attrs["run_id"], data.attrs["archive_digest"]) == (archive.run_id, archive.digest)
    assert json.loads(data.attrs["options"]) == {"zero": "nan"}
    paths = results["path_self_similarity"]
    assert paths.attrs["lag"] == "epoch" and paths["step"].values.tolist() == [0, 4, 8, 12]
    assert paths["example_probe"].values.tolist() == ["train"] * 16 + ["test"] * 12
    assert paths["mean"].attrs["n_nan"] == int(paths["mean"].isnull().sum()) >= 2
    assert set(results.provenance["stiffness"]) >= {"run_id", "options", "created", "tracer_version"}


def test_every_gram_is_read_once_for_all_metrics(path, monkeypatch):
    reads = []
    original = Archive.gram
    monkeypatch.setattr(Archive, "gram", lambda self, step: reads.append(int(step)) or original(self, step))
    analyze.run(path, GRAM)
    assert sorted(reads) == [0, 1, 2, 4, 8, 12]


@metric(reads=("losses",), variables={"a": ("step",)}, title="Refused")
def refused(losses):
    """Reads what turns out to be damaged."""
    raise ArchiveError("'steps/loss' is damaged")


def test_what_is_wrong_with_an_archive_is_told_as_it_is(path):
    with pytest.raises(AnalysisError, match=r"^refused: 'steps/loss' is damaged$"):
        analyze.run(path, [refused])


def test_small_blocks_give_the_same_results(path):
    names = [*GRAM, "path_cross_similarity", "generalization", "depth_slope", "cna"]
    whole, seen = analyze.run(path, names), []
    parts = analyze.run(path, names, memory=30_000, progress=lambda *args: seen.append(args))
    assert same(whole, parts)
    assert any(total > 6 for _, total, _ in seen)
    assert all(0 < done <= total and text for done, total, text in seen)


# test_distribute.py asks it of a process that dies and of one that does not, and of many blocks without processes.
@pytest.mark.slow
def test_processes_give_the_same_results(path):
    names = ["stiffness", "generalization", "margin"]
    assert same(analyze.run(path, names), analyze.run(path, names, jobs=2, memory=60_000))


def test_memory_holds_one_block(tmp_path):
    n, steps = 80, tuple(range(12))
    write_archive(tmp_path / "run.zarr", steps=steps, probes={"train": n, "test": n}, n_gradients=n)
    archive = open_archive(tmp_path / "run.zarr")
    one = (2 * n) ** 2 * 4 * 8
    limit = 12 * one
    analyze.run(archive, ["stiffness"], memory=limit)  # imports are not what is measured
    tracemalloc.start()
    analyze.run(archive, ["stiffness"], memory=limit)
    small = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    analyze.run(archive, ["stiffness"], memory=1 << 40)
    large = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small < limit < large


LAGGED = [
    pytest.param(["path_cross_similarity"], marks=pytest.mark.slow),  # is in both that are taken by default
    ["path_self_similarity", "path_cross_similarity", "path_patterns"],
    pytest.param(["path_neighbours", "path_distance"], marks=pytest.mark.slow),  # test_memory.py has both
    pytest.param(["path_cross_similarity", "stiffness", "generalization"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("names", LAGGED)
def test_memory_holds_metrics_that_look_back_and_several_probes(tmp_path, names):
    probes = {"train": 200, "test": 200, "other": 200}
    write_archive(tmp_path / "run.zarr", steps=tuple(range(8)), probes=probes, n_gradients=8)
    archive = open_archive(tmp_path / "run.zarr")
    limit = 6_000_000  # a snapshot of what is read takes up to 4.8
    analyze.run(archive, names, memory=limit)  # imports are not what is measured
    peaks = []
    for memory in (limit, 1 << 40):
        tracemalloc.start()
        analyze.run(archive, names, memory=memory)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < limit < peaks[1]


def test_what_does_not_fit_is_skipped_with_the_figure(path):
    results = analyze.run(path, memory=500)
    assert "stiffness" in results.skipped and "stiffness" not in results
    assert "memory is limited to" in results.skipped["stiffness"]
    with pytest.raises(MissingTraceError, match="raise the limit or record fewer examples"):
        analyze.run(path, ["stiffness"], memory=500)


def test_metrics_that_compare_in_time_share_their_blocks_with_those_that_do_not(monkeypatch):
    archive = fake_archive(steps=range(12), ends=())
    plans = [make_plan(card, {}, archive, {}) for card in (path_patterns.card, path_cross_similarity.card)]
    assert [plan.lag for plan in plans] == ["", "snapshot"]
    (whole,) = blocks_of(plans, archive, 1 << 40, {})
    monkeypatch.setattr(blocks, "_REUSED", 1)  # however much memory there is
    cut = list(blocks_of(plans, archive, 1 << 40, {}))
    assert [(block.lead, len(block.steps)) for block in cut] == [(None, 8), (7, 4)]
    worker = Worker(archive)
    for name in whole.names:
        expected = worker.compute(whole)[name].returned
        parts = [worker.compute(block)[name].returned for block in cut]
        for probe, one in enumerate(expected):
            for variable in ("mean", "histogram", "n_patterns", "hamming"):
                if variable in one:
                    joined = np.concatenate([part[probe][variable] for part in parts])
                    np.testing.assert_array_equal(joined, one[variable])


def test_sites_are_taken_in_groups_where_all_do_not_fit():
    archive = fake_archive(sizes={"train": 40})
    plan = make_plan(path_cross_similarity.card, {}, archive, {})
    memory = int(plan.nbytes(archive) * 0.7)
    cut = list(blocks_of([plan], archive, memory, {}))
    assert [block.groups_of_sites for block in cut] == [2, 2]
    whole = list(blocks_of([plan], archive, 1 << 40, {}))
    assert len(whole) == 1 and whole[0].groups_of_sites == 1
    worker = Worker(archive)
    expected = worker.compute(whole[0])["path_cross_similarity"].returned[0]
    for position, block in enumerate(cut):
        got = worker.compute(block)["path_cross_similarity"].returned[0]
        np.testing.assert_array_equal(got["mean"][0], expected["mean"][position])
        np.testing.assert_array_equal(got["histogram"][0], expected["histogram"][position])


def test_finished_metrics_are_not_computed_again(path, tmp_path, monkeypatch):
    first = analyze.run(path, ["stiffness", "margin"], output=tmp_path)
    original = Worker.compute
    called = []
    monkeypatch.setattr(
        Worker, "compute", lambda self, block: called.extend(block.names) or original(self, block)
    )
    again = analyze.run(path, ["stiffness", "margin"], output=tmp_path)
    assert called == []
    for name in first:
        xr.testing.assert_identical(first[name], again[name])
    changed = analyze.run(
        path, ["stiffness", "margin"], output=tmp_path, options={"margin": {"epsilon": 0.5}}
    )
    assert called == ["margin"] and changed["margin"].attrs["epsilon"] == 0.5
    write_archive(tmp_path / "other.zarr", steps=(0, 1), seed=1)
    analyze.run(tmp_path / "other.zarr", ["stiffness"], output=tmp_path)
    assert called == ["margin", "stiffness"]
    assert set(load(tmp_path)) == {"stiffness"}, "a directory describes one run"


def test_a_change_of_what_is_read_reaches_the_reader(path, tmp_path, monkeypatch):
    analyze.run(path, ["cna"], output=tmp_path)
    called = []
    original = Worker.compute
    monkeypatch.setattr(
        Worker, "compute", lambda self, block: called.extend(block.names) or original(self, block)
    )
    analyze.run(path, ["cna"], output=tmp_path, options={"depth_slope": {"where": "post"}})
    assert called == ["depth_slope", "cna"]


def test_failures_are_skipped_by_default_and_raised_when_named(path, monkeypatch):
    known = {name: analyze.available_metrics()[name] for name in ("stiffness",)}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: {**known, "broken": broken.card})
    results = analyze.run(path)
    assert list(results) == ["stiffness"]
    assert results.skipped == {"broken": "failed with ValueError: no luck"}
    with pytest.raises(AnalysisError, match="no luck") as caught:
        analyze.run(path, [broken])
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(AnalysisError, match=r"'a' of shape \(6, 28\), its card says \('step',\)"):
        analyze.run(path, wrong_shape)


def test_missing_stream_says_how_to_record_it(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1), probes={"test": 6}, gram=False)
    results = analyze.run(tmp_path / "run.zarr")
    assert "gradients='gram'" in results.skipped["stiffness"]
    assert "needs a probe of split 'train', the archive has ['test']" in results.skipped["class_stiffness"]
    assert np.isnan(results["generalization"]["gap_loss"]).all()


def test_attributes_are_flat(path):
    def noted(losses):
        """Attributes of several types."""
        return {"a": losses.mean(-1), "attrs": {"n": np.int64(3), "levels": (1, 2), "on": True, "x": 0.5}}

    metric(reads=("losses",), variables={"a": ("step",)}, title="N", reference=FORT_2019)(noted)
    attributes = analyze.run(path, noted)["noted"].attrs
    assert [attributes[name] for name in ("n", "levels", "on", "x")] == [3, "[1, 2]", "true", 0.5]


def test_unknown_names_are_corrected(path):
    with pytest.raises(MissingTraceError, match="did you mean 'stiffness'"):
        analyze.run(path, ["stifness"])
    with pytest.raises(TypeError, match="no option 'zer'; did you mean 'zero'"):
        analyze.run(path, ["stiffness"], options={"stiffness": {"zer": 1}})
    for memory in ("2 parsecs", 0, "-1GB"):
        with pytest.raises(ValueError, match="memory is a number of bytes"):
            parse_memory(memory)


def test_an_epoch_without_its_first_snapshot_falls_back_to_snapshots():
    assert compared([3, 5, 9], [9]) == ((3, 5, 9), "snapshot")
    assert compared([0, 3, 9], [9]) == ((0, 9), "epoch")


def test_a_metric_that_needs_all_snapshots_at_once_keeps_to_the_limit_too(tmp_path):
    def spread(losses):
        """Largest difference over time."""
        return {"a": np.ptp(losses)}

    metric(reads=("losses",), variables={"a": ()}, title="Spread", reference=FORT_2019)(spread)
    write_archive(tmp_path / "run.zarr", steps=range(40))
    with pytest.raises(MissingTraceError, match=r"all 40 snapshots at once, \d+\.\d KiB: raise --memory"):
        analyze.run(tmp_path / "run.zarr", spread, memory="10KB")


def test_sums_over_snapshots_stream_and_do_not_depend_on_memory(tmp_path, monkeypatch):
    write_archive(tmp_path / "run.zarr", steps=range(40))
    whole, at_once = analyze.run(tmp_path / "run.zarr", ["tracin"]), []
    original = Archive.gram
    monkeypatch.setattr(Archive, "gram", lambda self, step: at_once.append(step) or original(self, step))
    found = analyze.run(tmp_path / "run.zarr", ["tracin"], memory="100KB")
    assert same(whole, found) and len(at_once) == 40
    archive = open_archive(tmp_path / "run.zarr")
    rates = np.array([archive.rows["lr"][step, 0] for step in range(40)])
    grams = np.stack([archive.gram(step).sum(0)[:6, 6:] for step in range(40)])
    used = np.isfinite(rates)
    expected = np.einsum("s,sij->ij", rates[used], grams[used])
    np.testing.assert_allclose(found["tracin"]["influence"], expected, rtol=1e-12)
    assert found["tracin"]["n_snapshots"] == used.sum() >= 39


def test_what_one_snapshot_leaves_undefined_adds_nothing():
    plan = make_plan(analyze.available_metrics()["tracin"], {}, fake_archive(), {})
    first = {"influence": [[np.nan, 1.0]], "self_influence": [2.0], "n_snapshots": 1, "train_example": [7]}
    second = {
        "influence": [[np.nan, np.nan]],
        "self_influence": [np.nan],
        "n_snapshots": 0,
        "train_example": [7],
    }
    (total,) = added(plan, [first], [second])
    np.testing.assert_array_equal(total["influence"], [[np.nan, 1.0]])
    assert (total["self_influence"], total["n_snapshots"], total["train_example"]) == ([2.0], 1, [7])
    with pytest.raises(AnalysisError, match="did not return 'n_snapshots'"):
        added(plan, [first], [{key: second[key] for key in ("influence", "self_influence")}])


def test_metrics_share_a_block_only_if_they_share_an_array(path):
    archive, cards = open_archive(path), analyze.available_metrics()
    names = ["stiffness", "margin", "grand", "el2n", "depth_slope"]
    plans = [make_plan(cards[name], {}, archive, {}) for name in names]
    blocks = list(blocks_of(plans, archive, 1 << 40, {}))
    assert [block.names for block in blocks] == [["stiffness", "grand"], ["margin", "el2n"], ["depth_slope"]]
    cut = list(blocks_of(plans[:1], archive, 1 << 40, {}, pieces=4))
    assert [block.steps for block in cut] == [(0, 1), (2, 4), (8, 12)]
    assert [block.number for block in blocks] == [0, 1, 2]


def test_the_first_block_says_how_a_metric_fails_in_whatever_order_they_come(path):
    archive = open_archive(path)
    plan = make_plan(fails_late.card, {}, archive, {})
    blocks = list(blocks_of([plan], archive, 1 << 40, {}, pieces=6))
    worker = Worker(archive)
    messages = {k: worker.compute(blocks[k])["fails_late"].message for k in (4, 5, 3, 0)}
    assert messages[4] == messages[5] == "failed with ValueError: no luck at step 8"
    assert messages[3].endswith("at step 4") and messages[0] == ""
