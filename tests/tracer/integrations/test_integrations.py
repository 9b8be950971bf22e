"""The package of integrations: light to import, and clear where a trainer is not installed."""

import importlib
import subprocess
import sys

import pytest

import tracer.integrations

TRAINERS = ("accelerate", "lightning", "transformers")


def test_importing_the_package_imports_no_trainer() -> None:
    code = f"import sys, tracer.integrations; assert not {{*{TRAINERS}, 'torch'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert set(TRAINERS) <= set(dir(tracer.integrations))
    with pytest.raises(AttributeError, match="keras"):
        tracer.integrations.keras


@pytest.mark.parametrize("name", TRAINERS)
def test_a_missing_trainer_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    known = [module for module in sys.modules if module.partition(".")[0] == name]
    for module in {name, *known}:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"tracer.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"needs the package {name}: pip install 'tracer-nn\["):
        importlib.import_module(f"tracer.integrations.{name}")
