"""Test settings that must hold before torch or matplotlib is imported, and how many processes run the tests."""

import os
from pathlib import Path

import pytest

# Small tensors on few cores: one thread each is faster, and results do not depend on the machine's size.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Importing a trainer takes seconds in every process that runs tests, and there are no doctests in these.
collect_ignore_glob = ["tracer/integrations/*"]

FEW = 4  # files that one process has run before others have imported torch


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """None, which leaves the number to xdist, but for a few files that were named one by one."""
    files = {name.partition("::")[0] for name in config.args}
    few = len(files) <= FEW and all(Path(config.invocation_params.dir, name).is_file() for name in files)
    return 0 if few else None
