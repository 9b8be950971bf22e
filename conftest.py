"""Test settings that must hold before torch or matplotlib is imported, and how many processes run the tests."""

import functools
import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Small tensors on few cores: one thread each is faster, and results do not depend on the machine's size.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Nothing that is imported is garbage; tests make many small objects, few of them in circles.
SEARCHES = (100_000, 20, 20)
gc.disable()
gc.set_threshold(*SEARCHES)

# Tests start many processes, which all import the same modules: compiled once, whatever the environment says.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Importing a trainer takes seconds in every process that runs tests, and there are no doctests in these.
collect_ignore_glob = ["tracer/integrations/*"]
# All of these are slow, and imported only where slow tests are asked for; `.ci/run` does.
TRAINERS = {f"test_integration_{name}.py" for name in ("lightning", "transformers")}
TESTS = Path(__file__).parent / "tests"

FEW = 4  # files that one process has run before others have imported torch
# Files whose tests run in forks of one server (`tests/forks.py`), which takes seconds to start: all for one process.
FORKING = {
    f"tests/{name}.py"
    for name in ("attacks/test_operands", "project/test_guides", "tracer/recorder/test_ranks")
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Modules that tests use hold no doctests: they are imported where a test needs them."""
    if collection_path.name in TRAINERS and "not slow" in config.getoption("markexpr"):
        return True
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith(("test_", "__init__"))
    return True if helper and TESTS in collection_path.parents else None


def pytest_collection_finish() -> None:
    """What is the same for all tests is looked at once.

    Searches for garbage need not go through all that was imported, which took a twentieth of the processor's time.
    """
    gc.freeze()
    gc.enable()
    card = sys.modules.get("tracer.recorder.card")
    if card is not None:  # what git says of this checkout, once for all recordings of a process
        card._git = functools.cache(card._git)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One file at a time, as `--dist loadfile` has it, with those that fork as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "forking" if file in FORKING else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


_searches = 0  # for garbage, of everything, so far


def pytest_runtest_logfinish() -> None:
    """What outlived a search for garbage is not searched again, nor what was imported meanwhile."""
    global _searches
    gc.set_threshold(*SEARCHES)  # tests of memory have it as it is without tests
    before, _searches = _searches, gc.get_stats()[-1]["collections"]
    if _searches > before:
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """None, which leaves the number to xdist, but for a few files that were named one by one."""
    files = {name.partition("::")[0] for name in config.args}
    few = len(files) <= FEW and all(Path(config.invocation_params.dir, name).is_file() for name in files)
    return 0 if few else None


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `record_everything` records, once for all tests that only read it."""
    from tests.loops import record_everything

    path = tmp_path_factory.mktemp("everything") / "run.zarr"
    record_everything(path)
    return path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of nothing: for tests of what is written and when, of which `tests/analyze/report` asks how it looks."""
    from matplotlib.figure import Figure

    from analyze import plot
    from analyze.report import save

    monkeypatch.setattr(save, "FEW", 1000)
    monkeypatch.setattr(save, "cores", lambda: 1)  # or another process draws
    for name in ("draw", "styled"):
        monkeypatch.setattr(plot, name, lambda *_: Figure())
    monkeypatch.setattr(plot, "to_svg", lambda *_: '<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>')
