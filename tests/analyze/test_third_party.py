import shutil
import sys

import pytest

import analyze
from analyze import catalogue
from tests import contract

MODULE = '''
import numpy as np
from analyze import plot
from analyze import metric
from analyze.reference import Reference

@metric(reads=("losses",), variables={"worst": ("step",)}, title="Worst loss", formula="max L", cost="none",
        reading="Falls late.", reference=Reference("doe2026", ("Doe, Jane",), "An example", 2026, doi="10.0000/x"))
def worst_loss(losses):
    """Largest loss of any example.

    >>> worst_loss(np.array([[1.0, 2.0]]))["worst"]
    array([2.])
    """
    return {"worst": losses.max(axis=-1)}

def plot_worst_loss(result, figure):
    (axes,) = plot.panels(figure, 1)
    plot.line(axes, result["step"], result["worst"])
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution on the path that declares a metric of its own, as pip would have left it."""
    site, info = tmp_path / "site", tmp_path / "site" / "worst_metric-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "worst_metric.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: worst-metric\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tracer.metrics]\nworst_loss = worst_metric\n")
    monkeypatch.syspath_prepend(str(site))
    yield analyze.available_metrics()["worst_loss"]
    sys.modules.pop("worst_metric", None)


def test_a_metric_of_an_installed_package_is_found_kept_to_the_contract_and_computed(installed, everything):
    results = analyze.run(everything, ["worst_loss", "stiffness"])
    contract.check_card(installed)
    contract.check_result(installed, results["worst_loss"])
    contract.check_plot(installed, results["worst_loss"])
    assert results["worst_loss"]["worst"].sizes == {"step": 7}


def test_packages_are_searched_again_where_one_has_come_or_gone(installed, tmp_path, monkeypatch):
    searched, find = [], catalogue.entry_points
    entries = lambda group: searched.append(group) or find(group=group)  # noqa: E731
    monkeypatch.setattr(catalogue, "entry_points", entries)
    for _ in range(3):
        assert "worst_loss" in analyze.available_metrics()
    assert len(searched) == 1
    shutil.rmtree(tmp_path / "site" / "worst_metric-1.0.dist-info")
    assert "worst_loss" not in analyze.available_metrics() and len(searched) == 2


def test_results_as_parquet_are_the_tidy_table(tmp_path, everything):
    import pandas as pd

    results = analyze.run(everything, ["generalization"])
    results.to_parquet(tmp_path / "results.parquet")
    read = pd.read_parquet(tmp_path / "results.parquet")
    assert read["value"].tolist() == results.to_dataframe()["value"].tolist()
    assert {"metric", "variable", "step", "value"} <= set(read.columns)
