"""`memory=` is what an analysis takes at most, by the system's account: lagged metrics, several probes."""

from pathlib import Path

import pytest

import analyze
from tests.memory import MIB, SLACK, Peak, counted
from tests.synthetic import write_archive

pytestmark = counted

LAGGED = ["path_self_similarity", "path_cross_similarity", "path_neighbours", "activation_cross_similarity"]
METRICS = [*LAGGED, "stiffness", "cna"]


@pytest.mark.parametrize(
    ("n", "mebibytes"),
    [
        pytest.param(400, 48, id="some"),
        pytest.param(1300, 480, id="ten times larger", marks=pytest.mark.slow),
    ],
)
def test_an_analysis_stays_within_its_memory(tmp_path: Path, n: int, mebibytes: int) -> None:
    for name, count in {"few": 20, "many": n}.items():
        write_archive(
            tmp_path / f"{name}.zarr",
            steps=range(0, 13, 2),
            probes={"train": count, "test": count // 2},
            n_gradients=count // 2,
        )

    def analysis(name: str) -> None:
        archive, output = tmp_path / f"{name}.zarr", tmp_path / f"{name}.analysis"
        analyze.run(archive, METRICS, memory=mebibytes * MIB, output=output)

    analysis("few")  # what is loaded once
    peak = Peak()
    peak.begin()
    analysis("many")
    assert peak.taken < SLACK * mebibytes * MIB
