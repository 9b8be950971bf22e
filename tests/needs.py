"""What some tests need of the machine: they skip without, unless it was said that nothing may be skipped for it."""

import os

import pytest

VARIABLE = "TRACER_TESTS_REQUIRE"  # names, separated by commas: `.ci/run` sets it


def need(what: str, present: object, why: str) -> None:
    """Skip the test or module at hand for want of `what`; fail where that is among the names in `VARIABLE`."""
    if present:
        return
    if what in os.environ.get(VARIABLE, "").split(","):
        pytest.fail(f"{why}, and {VARIABLE} asks for {what}", pytrace=False)
    pytest.skip(why, allow_module_level=True)
