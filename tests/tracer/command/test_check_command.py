"""`tracer check` runs a user's training function and says what recording changed."""

import json
import pickle
import sys

import pytest
from click.testing import CliRunner

import cli
from tracer.command.parameters import imported

TRAINING = """
import torch, torch.nn.functional as F
from torch import nn

{setup}

def train(record):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    with record("a.zarr", model, optimizer, loss=F.cross_entropy, probes={{"train": (x, y)}}) as run:
        {loop}
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
"""


def check(tmp_path, monkeypatch, name, *options, setup="", loop="pass"):
    module = f"training_{abs(hash((setup, loop)))}"
    (tmp_path / f"{module}.py").write_text(TRAINING.format(setup=setup, loop=loop))
    monkeypatch.chdir(tmp_path)
    return CliRunner().invoke(cli.main, ["check", name.replace("MODULE", module), *options])


def test_a_neutral_loop_passes(tmp_path, monkeypatch):
    result = check(tmp_path, monkeypatch, "MODULE:train", "--format", "json")
    assert result.exit_code == 0, result.output
    outcomes = {row["quantity"]: row["outcome"] for row in json.loads(result.stdout)}
    assert set(outcomes.values()) == {"identical"} and "random streams" in outcomes
    assert "training over 1 updates is unchanged" in result.stderr
    assert not list(tmp_path.glob("*.zarr"))


def test_a_loop_that_looks_whether_it_is_recorded_fails(tmp_path, monkeypatch):
    loop = "model.weight.data += hasattr(run, 'notes') and getattr(run, '_recorder', None) is not None"
    result = check(tmp_path, monkeypatch, "MODULE:train", loop=loop)
    assert result.exit_code == 1
    assert "changed" in result.stdout and "NOT proved" in result.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("MODULE", "module:function"),
        ("nowhere_at_all:train", "no module 'nowhere_at_all'"),
        ("MODULE:absent", "no function 'absent'"),
        ("MODULE.py:train", "without .py"),
        ("../MODULE:train", "module:function"),
        ("..MODULE:train", "module:function"),
        ("os:getcwd", "os:getcwd cannot be called with 1 argument (too many positional arguments)"),
        ("os.path:join", "os.path:join failed (TypeError: expected str"),
        ("broken:train", "importing 'broken' failed (SyntaxError: "),
        ("ends:train", "importing 'ends' failed (SystemExit: 3)"),
        ("raises:train", "raises:train failed (ValueError: two)"),
    ],
)
def test_a_name_that_is_no_function_is_refused(tmp_path, monkeypatch, name, sentence):
    (tmp_path / "broken.py").write_text("def train(:")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    (tmp_path / "raises.py").write_text("def train(record):\n    raise ValueError('two\\nlines')")
    result = check(tmp_path, monkeypatch, name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        sentence in result.stderr and "Traceback" not in result.stderr and "unexpected" not in result.stderr
    )


def test_a_named_function_reaches_processes_that_do_not_look_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "of_this_place.py").write_text("def four():\n    return 4")
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(imported("of_this_place:four"))
    del sys.modules["of_this_place"]
    assert str(tmp_path) not in sys.path and pickle.loads(sent)() == 4
