"""Mirrors: what TensorBoard's writer, a Weights & Biases run and its module look like from here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tracer
from tests.loops import run_loop
from tracer.recorder.mirror import Mirror


def test_the_loss_of_each_update_is_mirrored_as_it_is_stored(tmp_path: Path) -> None:
    seen: dict[int, dict[str, float]] = {}

    def log(values: dict[str, float], step: int) -> None:
        seen[step] = values

    _, _, losses = run_loop(tmp_path / "a.zarr", mirror=SimpleNamespace(log=log, url="https://example.org/1"))
    assert seen == {step: {"loss": loss} for step, loss in enumerate(losses, start=1)}
    assert tracer.open(tmp_path / "a.zarr").card["mirror"]["url"] == "https://example.org/1"


def unreachable() -> str:
    raise ConnectionError("offline")


@pytest.mark.parametrize(
    ("target", "url"),
    [
        (SimpleNamespace(url="https://a"), "https://a"),
        (SimpleNamespace(get_url=lambda: "https://b"), "https://b"),
        (SimpleNamespace(run=SimpleNamespace(url="https://c")), "https://c"),
        (SimpleNamespace(url=None, run=None), None),
        (SimpleNamespace(get_url=unreachable), None),
    ],
)
def test_the_url_is_found_where_a_tracker_has_it(target: Any, url: str | None) -> None:
    target.log = print
    assert Mirror(target).card["url"] == url
