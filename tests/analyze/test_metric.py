import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Literal

import numpy as np
import pytest

import analyze
from analyze import metric as decorator
from analyze.catalogue import available_metrics, card_of
from analyze.contract import Metric, metric
from analyze.metrics.gradients.stiffness import stiffness
from analyze.reference import FORT_2019, WALKER_2023, Reference
from tracer.errors import ArgumentError, MissingTraceError

HOME = sys.modules["analyze.catalogue"]


def worst_loss(losses, *, top=1):
    """Largest losses."""
    return {"worst": np.sort(losses, -1)[:, -top]}


def attach(**changes):
    card = {"reads": ("losses",), "variables": {"worst": ("step",)}, "title": "Worst", "reference": FORT_2019}
    return metric(**{**card, **changes})(worst_loss)


def test_decorator_returns_the_function_itself():
    assert attach() is worst_loss
    assert worst_loss(np.array([[1.0, 3.0]]))["worst"].tolist() == [3.0]
    card = worst_loss.card
    assert (card.name, card.meaning, card.options) == ("worst_loss", "Largest losses.", {"top": 1})
    assert card.in_time and card.units_of("worst") == "1" and card.bounds_of("worst") is None


def test_parameters_have_to_be_what_the_card_reads():
    with pytest.raises(TypeError, match=r"reads \['outputs'\], but its parameters are \['losses'\]"):
        attach(reads=("outputs",))
    with pytest.raises(TypeError, match="no parameter for the optional"):
        attach(optional=("correct",))


def test_a_value_of_each_probe_has_a_place_for_it():
    with pytest.raises(TypeError, match=r"write variables=\{'worst': \('step', 'probe'\)\}"):

        @analyze.metric(reads=("losses",), variables={"worst": ("step",)}, scope="probe", title="Worst")
        def worst(losses):
            """Largest loss."""


def test_dotted_reads_are_parameters_with_an_underscore():
    @metric(
        reads=("margin.gamma",),
        optional={"generalization.loss": {"mode": "loss"}},
        variables={"n_seen": ("step",), "rank": ("step",), "value": ("step",)},
        title="x",
        reference=(FORT_2019, WALKER_2023),
        integers=("rank",),
        bounds={"value": (0, 1)},
        units={"value": "nat"},
    )
    def other(margin_gamma, *, generalization_loss=None, mode="plain"):
        """Words."""
        return {}

    card = other.card
    assert card.options == {"mode": "plain"}
    assert [card.is_integer(name) for name in ("n_seen", "rank", "value")] == [True, True, False]
    assert card.bounds_of("value") == (0, 1) and card.bounds_of("rank") is None
    assert card.units_of("value") == "nat" and card.units_of("rank") == "1"


def test_options_are_checked():
    card = stiffness.card
    assert card.with_options({"zero": "as_zero"}) == {"zero": "as_zero"}
    with pytest.raises(TypeError, match="no option 'zeros'; did you mean 'zero'"):
        card.with_options({"zeros": 1})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epsilon", "x", "a number"),
        ("epsilon", True, "a number"),
        ("epsilon", 1, ""),
        ("q", 0.5, "one value or more, such as"),
        ("q", "0.5", "one value or more, such as"),
        ("q", [0.5], ""),
        ("method", 1, "one of 'order', 'linear'"),
        ("window", 2.5, "a whole number"),
        ("window", np.int64(3), ""),
        ("softmax", 1, "true or false"),
        ("layer_name", 3, "a text"),
        ("examples", None, ""),
        ("keep", "much", ""),
    ],
)
def test_a_value_of_another_kind_is_refused_before_anything_is_computed(name, value, expected):
    @metric(reads=("losses",), variables={"n": ()}, title="Options")
    def some(
        losses,
        *,
        epsilon: float = 0.1,
        q: Sequence[float] = (0.1, 0.5),
        method: Literal["order", "linear"] = "order",
        window: int = 25,
        softmax: bool = False,
        layer_name: str = "all",
        examples: int | None = 512,
        keep=None,
    ):
        """Words."""
        return {}

    if not expected:
        assert some.card.with_options({name: value})[name] == value
        return
    with pytest.raises(ArgumentError, match=f"option '{name}' .* got {value!r}, expected {expected}"):
        some.card.with_options({name: value})


def test_discovery_finds_files_and_entry_points(monkeypatch):
    module = ModuleType("elsewhere")
    attach()
    foreign = SimpleNamespace(name="worst", load=lambda: worst_loss)
    monkeypatch.setattr(HOME, "entry_points", lambda group: [foreign])
    found = available_metrics()
    assert found["worst_loss"] is worst_loss.card and "stiffness" in found
    assert list(found) == sorted(found)
    module.stiffness = stiffness  # imported there, not defined there
    monkeypatch.setattr(foreign, "load", lambda: module)
    assert available_metrics()["stiffness"] is stiffness.card


def test_two_metrics_of_one_name_are_an_error(monkeypatch):
    @metric(reads=("losses",), variables={"a": ("step",)}, title="x", reference=FORT_2019)
    def stiffness(losses):
        """Another one."""
        return {}

    entry = SimpleNamespace(name="s", load=lambda: stiffness)
    monkeypatch.setattr(HOME, "entry_points", lambda group: [entry])
    with pytest.raises(
        ValueError,
        match=r"'stiffness': in analyze\.metrics\.gradients\.stiffness and in tests\.analyze\.test_metric",
    ):
        available_metrics()


def test_card_by_name_card_or_function():
    assert card_of("stiffness") is card_of(stiffness) is card_of(stiffness.card)
    with pytest.raises(MissingTraceError, match="did you mean 'stiffness'"):
        card_of("stifness")
    with pytest.raises(TypeError, match="decorated with @metric"):
        card_of(len)


def test_package_names_stay_functions_whatever_is_imported():
    import_module("analyze.metrics.outcome.margin")
    assert analyze.available_metrics() == available_metrics() and analyze.metric is decorator
    assert isinstance(sys.modules["analyze.metrics"], ModuleType)
    assert isinstance(analyze.available_metrics()["margin"], Metric)
    with pytest.raises(AttributeError, match="no attribute 'metrix'"):
        analyze.metrix


def test_source_changes_with_the_module(tmp_path, monkeypatch):
    before = stiffness.card.source
    assert before == stiffness.card.source and len(before) == 16
    copy = tmp_path / "stiffness.py"
    copy.write_text("# another version\n")
    monkeypatch.setattr("inspect.getsourcefile", lambda function: str(copy))
    assert stiffness.card.source != before


def test_references_lead_somewhere():
    assert FORT_2019.link == "https://arxiv.org/abs/1901.09491"
    assert str(FORT_2019) == "Fort et al. 2019, arXiv:1901.09491"
    assert "archivePrefix = {arXiv}" in FORT_2019.bibtex() and FORT_2019.bibtex().startswith("@misc{fort2019")
    both = Reference("k", ("A, B", "C, D"), "T", 2000, doi="10.1/2")
    assert both.short == "A & C 2000" and both.link == "https://doi.org/10.1/2"
    assert WALKER_2023.link == "" and "Report" in str(WALKER_2023)
