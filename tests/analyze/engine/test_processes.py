"""A few named files are run by one process; more of them, folders and the whole suite by as many as there are cores."""

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.mark.parametrize(
    ("named", "alone"),
    [
        (["test_0.py"], True),
        (["test_0.py::test_a[b]", "test_0.py::test_c", "test_1.py"], True),
        ([f"test_{i}.py" for i in range(9)], False),
        (["test_0.py", "metrics"], False),
        (["."], False),
    ],
)
def test_few_files_have_one_process(
    pytestconfig: pytest.Config, tmp_path: Path, named: list[str], alone: bool
) -> None:
    (tmp_path / "metrics").mkdir()
    for i in range(9):
        (tmp_path / f"test_{i}.py").touch()
    asked = {"args": named, "invocation_params": SimpleNamespace(dir=tmp_path), "option": pytestconfig.option}
    workers = pytestconfig.hook.pytest_xdist_auto_num_workers(config=SimpleNamespace(**asked))
    assert (workers == 0) == alone
