"""`memory=` is what an analysis takes at most, by the system's account: lagged metrics, several probes."""

import subprocess
import sys
from pathlib import Path

import pytest

import analyze
from analyze.engine.plan import closure
from tests import ROOT
from tests.memory import MIB, SLACK, Peak, counted
from tests.synthetic import write_archive

pytestmark = counted

LAGGED = ["path_self_similarity", "path_cross_similarity", "path_neighbours", "activation_cross_similarity"]
METRICS = [*LAGGED, "stiffness", "cna"]


def of_pairs(name: str) -> bool:
    """Whether a metric of stored arrays reads or makes numbers of pairs of examples."""
    card = analyze.available_metrics()[name]
    arrays = closure([read for read in card.reads if "." not in read])
    dims = [*(entry.dims for entry in arrays), *(card.makes or ())]
    return "states" not in card.reads and any("example_2" in each for each in dims)


PAIRS = [name for name in analyze.available_metrics() if of_pairs(name)]
# The one that comes closest; another of masks, and of Gram matrices, is in each analysis of the first test.
CLOSEST = ("path_distance",)
OTHERS = tuple(name for name in PAIRS if name not in CLOSEST)
ALONE = """
import sys
import analyze
from tests.memory import Peak
few, many, memory, *names = sys.argv[1:]
for name in names:
    analyze.run(few, [name])  # what is loaded once
    peak = Peak()
    peak.begin()
    analyze.run(many, [name], memory=int(memory))
    print(peak.taken)
"""


@pytest.mark.parametrize(
    ("n", "mebibytes"),
    [
        pytest.param(280, 24, id="some"),
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


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    runs = {"few": 12, "many": 240}
    for name, n in runs.items():
        probes = {"train": n, "test": n // 2}
        write_archive(folder / f"{name}.zarr", steps=range(0, 48, 2), probes=probes, n_gradients=n // 2)
    return {name: folder / f"{name}.zarr" for name in runs}


@pytest.mark.parametrize("names", [CLOSEST, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_a_block_of_any_metric_of_pairs_stays_within_its_memory(
    pairs: dict[str, Path], names: tuple[str, ...]
) -> None:
    """So many snapshots go together as fill the memory, whatever the function itself makes of them.

    In a process of its own: how much is taken depends on what is free, and so on the thousands of tests before.
    """
    memory = 30 * MIB  # all snapshots at once take 45 and more
    task = [str(pairs["few"]), str(pairs["many"]), str(memory), *names]
    command = [sys.executable, "-c", ALONE, *task]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    taken = dict(zip(names, map(int, done.stdout.split()), strict=True))
    assert {name: peak for name, peak in taken.items() if peak >= SLACK * memory} == {}
