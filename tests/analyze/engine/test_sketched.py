"""Metrics of sketched gradients: near those of exact ones, by as much as their error bars say."""

from pathlib import Path

import numpy as np
import pytest

import analyze
from analyze.errors import AnalysisError
from analyze.findings import findings
from analyze.metrics.gradients.tracin import plot_tracin
from analyze.plot import draw
from analyze.report.entries import options
from tests.sketched import network, record
from tracer.archive.sketches import standard_error
from tracer.errors import MissingTraceError

FAMILY = [
    "stiffness",
    "class_stiffness",
    "stiffness_by_distance",
    "neighbourhood_stiffness",
    "layer_stiffness",
    "tracin",
]


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("sketched") / "run.zarr", "sketch")


@pytest.fixture(scope="module")
def results(
    sketched: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[analyze.Results, analyze.Results]:
    exact = record(tmp_path_factory.mktemp("exact") / "run.zarr", "exact")
    return analyze.run(sketched, FAMILY), analyze.run(exact, FAMILY)


@pytest.mark.parametrize(
    ("metric", "variable"),
    [
        ("stiffness", "cosine"),
        ("class_stiffness", "cosine"),
        ("class_stiffness", "cosine_within"),
        ("stiffness_by_distance", "cosine"),
        ("neighbourhood_stiffness", "cosine"),
        ("tracin", "influence"),
        ("tracin", "self_influence"),
    ],
)
def test_the_error_bar_holds(
    metric: str, variable: str, results: tuple[analyze.Results, analyze.Results]
) -> None:
    got, exact = (each[metric] for each in results)
    gap, told = got[variable] - exact[variable], got[f"{variable}_sketch_error"]
    assert got[variable].dims == exact[variable].dims == told.dims
    assert set(exact.data_vars) < set(got.data_vars)
    ratio = float(np.sqrt((gap**2).mean() / (told**2).mean()))
    assert 0.3 < ratio < 2.5, ratio
    if "layer" in told.dims:  # the last layer is small and kept as it is
        assert float(told.sel(layer="3").max()) == pytest.approx(0, abs=1e-12)


def test_results_say_what_they_were_computed_from(results: tuple[analyze.Results, analyze.Results]) -> None:
    got, exact = results
    assert "sketches of gradients, 128 numbers a layer" in options(got["stiffness"])
    assert "sketches" not in exact["stiffness"].attrs
    assert findings(got) == [], "of twelve examples nothing is told"


def test_other_metrics_say_what_they_need(sketched: Path) -> None:
    for metric, how in (("gradient_diversity", "'gram' or 'exact'"), ("gsnr", "gradients='exact'")):
        with pytest.raises(MissingTraceError, match=f"sketches of gradients alone; record with .*{how}"):
            analyze.run(sketched, [metric])


def test_a_sum_goes_on_with_its_error(tmp_path: Path) -> None:
    model = network()
    path = record(tmp_path / "run.zarr", "sketch", 1, model)
    first = analyze.run(path, ["tracin"], output=tmp_path / "analysis")["tracin"]
    record(path, "sketch", 2, model, resume=True)
    grown = analyze.run(path, ["tracin"], output=tmp_path / "analysis")["tracin"]
    anew = analyze.run(path, ["tracin"])["tracin"]
    assert int(first["n_snapshots"]) < int(grown["n_snapshots"])
    assert grown.equals(anew)


def test_little_memory_changes_nothing(
    sketched: Path, results: tuple[analyze.Results, analyze.Results], tmp_path: Path
) -> None:
    kept = analyze.run(sketched, ["stiffness", "tracin"], memory="1MB", output=tmp_path)
    for name in ("stiffness", "tracin"):
        assert kept[name].equals(results[0][name])
    assert draw(plot_tracin, kept["tracin"]) is not None


def test_leaving_out_blocks_by_hand() -> None:
    # A mean of blocks: the jackknife is the usual standard error of a mean.
    blocks = np.array([1.0, 2.0, 4.0, 9.0])
    left_out = (blocks.sum() - blocks) / 3
    assert standard_error(left_out) == pytest.approx(blocks.std(ddof=1) / 2)


def test_a_failure_without_a_block_is_that_of_its_metric_alone(sketched: Path) -> None:
    calls = []

    @analyze.metric(
        reads=("gram",), variables={"x": ("step",)}, sketched=("x",), title="Fails the second time"
    )
    def faulty(gram: np.ndarray) -> dict[str, np.ndarray]:
        """Of the first example."""
        calls.append(len(calls))
        return {"x": gram[:, 0, 0, 0] / (1 if len(calls) == 1 else None)}

    results: list[str] = []
    with pytest.raises(AnalysisError, match="faulty: failed with TypeError"):
        analyze.run(
            sketched,
            [faulty, "stiffness"],
            finished=lambda name, data: results.extend(map(str, data.data_vars)),
        )
    assert len(calls) == 2 and "cosine_sketch_error" in results
