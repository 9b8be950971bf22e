"""Test settings that must hold before torch or matplotlib is imported."""

import os

# Small tensors on few cores: one thread each is faster, and results do not depend on the machine's size.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Importing a trainer takes seconds in every process that runs tests, and there are no doctests in these.
collect_ignore_glob = ["tracer/integrations/*"]
