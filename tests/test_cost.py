import pytest

import analyze
from analyze.contract import available_metrics
from analyze.engine.cost import Stopwatch
from analyze.engine.plan import make_plan
from tests.loops import record_everything
from tracer.archive import open as open_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "run.zarr"
    record_everything(path)
    return open_archive(path)


def test_more_passes_snapshots_and_examples_take_longer(archive):
    stopwatch = Stopwatch(archive, {})
    card = available_metrics()["sharpness"]

    def expected(**options):
        return stopwatch.seconds(make_plan(card, options, archive, {}))

    assert 0 < expected(examples=8) < expected(examples=16)
    assert expected(starts=1) < expected(starts=9)


def test_long_metrics_wait_until_they_are_named(archive):
    results = analyze.run(archive, patience=0.0)
    assert "stiffness" in results and "sharpness" not in results
    assert "ask for it by name" in results.skipped["sharpness"]
    assert "sharpness" in analyze.run(archive, ["sharpness"], patience=0.0)
