"""Tables over pairs of examples that do not fit in memory: made in bands of rows, with the same results."""

from pathlib import Path

import pytest
import xarray as xr

import analyze
from analyze.arrays import bands
from analyze.arrays.bands import Bands
from tests.loops import blobs
from tests.memory import MIB, SLACK, Peak, counted
from tests.sketched import record
from tests.synthetic import write_archive

CARDS = {name: card for name, card in analyze.available_metrics().items() if card.bands}
PLENTY = 1 << 28
LITTLE = {"exact": 1 << 18, "sketch": 300_000}
PAIRED = {"exact": 1 << 20, "sketch": 700_000}  # what returns a number for each pair


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bands")
    exact = folder / "exact.zarr"
    write_archive(exact, steps=(0, 2), probes={"test": 60, "train": 100}, n_gradients=60)
    probes = {"train": blobs(60, (3, 2, 2)), "test": blobs(30, (3, 2, 2), seed=3)}
    return {"exact": exact, "sketch": record(folder / "sketch.zarr", "sketch", 1, probes=probes)}


EACH = [("exact", name) for name in CARDS]
EACH += [("sketch", name) for name, card in CARDS.items() if card.sketched]
# Of means over pairs the plain ones stand for those by class, by layer and by neighbourhood.
LIKE = ("layer_stiffness", "neighbourhood_stiffness", "class_stiffness", "stiffness_by_distance")


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*one, marks=[pytest.mark.slow] * (one[1] in LIKE)) for one in EACH]
)
def test_bands_change_no_result(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setattr(bands, "BYTES", 3000)
    sizes: set[int] = set()
    plain = Bands.__init__

    def init(self: Bands, *arguments: object) -> None:
        plain(self, *arguments)  # type: ignore[arg-type]
        sizes.add(len(self.rows))

    monkeypatch.setattr(Bands, "__init__", init)
    whole = analyze.run(runs[kind], [name], memory=PLENTY)[name]
    assert not sizes
    banded = analyze.run(runs[kind], [name], memory=(PAIRED if name == "tracin" else LITTLE)[kind])[name]
    assert min(sizes) > 1
    xr.testing.assert_allclose(whole, banded, rtol=1e-9, atol=1e-12)


@pytest.mark.slow  # test_memory.py asks it of a block and of an analysis
@counted
def test_bands_stay_within_the_memory(tmp_path: Path) -> None:
    for name, n in {"few": 12, "many": 600}.items():
        probes = {"train": n, "test": n}
        write_archive(tmp_path / f"{name}.zarr", steps=(0, 1), probes=probes, n_gradients=n)
    analyze.run(tmp_path / "few.zarr", ["stiffness"])  # what is loaded once
    peak = Peak()
    peak.begin()
    analyze.run(tmp_path / "many.zarr", ["stiffness"], memory=96 * MIB)  # all at once would take 300 MB
    assert peak.taken < SLACK * 96 * MIB
