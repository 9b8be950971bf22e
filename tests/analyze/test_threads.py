"""A process beside which another one computes leaves it a core, unless the user said how many threads to take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os
import sys
import numpy
from threadpoolctl import threadpool_info
from analyze.numerics.processes import leave_a_core, pool

def told():
    return [each["num_threads"] for each in threadpool_info()], os.environ.get("OMP_NUM_THREADS")

if __name__ == "__main__":
    for found in map(int, sys.argv[1:]):
        os.sched_getaffinity = os.cpu_count = lambda *_, n=found: range(n) if _ else n
        before = told()
        undo = leave_a_core()
        during = told()
        with pool(4) as beside:
            inside = beside.submit(told).result()
        undo()
        assert told() == before
        print(set(during[0]), during[1], set(inside[0]), inside[1])
"""


def told(folder: Path, *cores: int, **environment: str) -> str:
    script = folder / "script.py"
    script.write_text(CODE)
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, script, *map(str, cores)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout


def test_threads_are_shared_out(tmp_path: Path) -> None:
    # Seven of eight cores here, two for each of four processes.
    assert told(tmp_path, 8) == "{7} 7 {2} 2\n"


@pytest.mark.slow  # processes of their own, for the least of what is shared and what is read where the other is
def test_a_single_core_is_everyone_s_and_what_the_user_says_holds(tmp_path: Path) -> None:
    assert told(tmp_path, 1) == "{1} 1 {1} 1\n"
    assert told(tmp_path, 8, 1, OMP_NUM_THREADS="1") == "{1} 1 {1} 1\n" * 2
