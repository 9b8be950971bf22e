"""Verdicts of the gallery: how often they are wrong where the truth is known, and what they say of too few seeds."""

import sys

import numpy as np
import pytest

from tests import ROOT

PAGES = 300


@pytest.fixture(scope="module")
def rules():
    """The module of the rules, as the scripts import it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "figures"))
        import verdicts

        yield verdicts
        del sys.modules["verdicts"]


def answers(rules, draw, effects, n=10, smallest=1.0, absent=False):
    """Answers (page, check) of simulated pages, `draw(rng, n)` being the noise of one check."""
    rng = np.random.default_rng(0)
    pages = []
    for _ in range(PAGES):
        checks = [rules.Check("x", effect + draw(rng, n), smallest, absent=absent) for effect in effects]
        pages.append([one.answer for one in rules.decide(checks)])
    return np.array(pages)


def normal(spread):
    return lambda rng, n: spread * rng.standard_normal(n)


def skewed(rng, n):
    return 0.5 * (rng.exponential(size=n) - 1)


@pytest.mark.parametrize("noise", [normal(0.5), normal(2.0), skewed], ids=["small", "large", "skewed"])
def test_where_nothing_happens_a_page_is_hardly_ever_supported(rules, noise):
    wrong = (answers(rules, noise, [0.0] * 6) == rules.SUPPORTED).any(1).mean()
    assert wrong <= 0.05


def test_at_the_smallest_effect_neither_answer_is_given_more_often_than_the_level_says(rules):
    given = answers(rules, normal(0.5), [1.0] * 6)
    wrong = (given != rules.UNTOLD).any(1).mean()
    # 5 % is the bound; over so many pages the share may be above it by chance, three standard errors at most.
    assert 0.005 < wrong <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / PAGES)


def test_with_a_strong_effect_nearly_every_page_is_supported_and_without_one_contradicted(rules):
    assert (answers(rules, normal(0.5), [2.0] * 6) == rules.SUPPORTED).mean() > 0.9
    assert (answers(rules, normal(0.5), [0.0] * 6) == rules.CONTRADICTED).mean() > 0.9


@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_three_seeds_or_much_noise_tell_nothing(rules, effect):
    assert (answers(rules, normal(0.01), [effect] * 2, n=3) == rules.UNTOLD).all()
    assert (answers(rules, normal(5.0), [effect] * 2) == rules.UNTOLD).all()


def test_the_power_is_the_share_of_checks_that_are_contradicted_where_nothing_happens(rules):
    rng, n, spread = np.random.default_rng(1), 10, 0.9
    level = 0.05
    said = rules.power(spread, n, 1.0, level)
    values = spread * rng.standard_normal((20_000, n))
    away = (1.0 - values.mean(1)) / (values.std(1, ddof=1) / np.sqrt(n))
    assert said == pytest.approx((away > rules.critical(level, n)).mean(), abs=0.01)
    assert rules.seeds_needed(spread, 1.0, level) in (9, 10)


def test_an_absence_is_never_support_and_can_contradict(rules):
    assert set(answers(rules, normal(0.2), [0.0], absent=True).ravel()) == {rules.NEUTRAL}
    assert set(answers(rules, normal(0.2), [2.0], absent=True).ravel()) == {rules.CONTRADICTED}
    nothing = rules.Check("does not rise", [0.01, -0.01] * 5, 1.0, absent=True)
    there = rules.Check("rises", [2.0, 2.1] * 5, 1.0)
    risen = rules.Check("does not rise", [2.0, 2.1] * 5, 1.0, absent=True)
    assert rules.verdict(rules.decide([nothing])) == rules.UNTOLD
    assert rules.verdict(rules.decide([nothing, there])) == rules.SUPPORTED
    assert rules.verdict(rules.decide([risen, there])) == rules.PARTLY
    assert rules.verdict(rules.decide([risen, nothing])) == rules.CONTRADICTED


def test_the_parts_of_a_claim_make_its_verdict(rules):
    yes = rules.Check("a", [2.0, 2.1] * 5, 1.0)
    no = rules.Check("b", [0.0, 0.1] * 5, 1.0)
    noise = rules.Check("c", [9.0, -9.0] * 5, 1.0)
    verdicts = {
        "supported": [yes],
        "partly supported": [yes, no],
        "contradicted": [no, noise],
        "cannot be told": [noise],
    }
    assert {word: rules.verdict(rules.decide(checks)) for word, checks in verdicts.items()} == dict(
        zip(verdicts, verdicts, strict=True)
    )


def test_an_interval_leaves_the_smallest_effect_out_where_its_check_is_decided_and_nowhere_else(rules):
    rng = np.random.default_rng(2)
    for _ in range(100):
        checks = [rules.Check("x", rng.normal(rng.uniform(0, 2), 0.5, 10), 1.0) for _ in range(4)]
        for one in rules.decide(checks):
            assert (one.low <= 1.0 <= one.high) == (one.p > rules.LEVEL)


def test_undefined_seeds_are_left_out_and_counted_and_alike_ones_are_no_proof(rules):
    (one,) = rules.decide([rules.Check("x", [2.0, None, float("nan"), float("inf"), 2.0], 1.0)])
    assert one.n == 2 and one.answer == rules.UNTOLD
    (one,) = rules.decide([rules.Check("x", [2.0] * 10, 1.0)])
    assert one.p == pytest.approx(2 / 1024) and one.answer == rules.SUPPORTED
    (one,) = rules.decide([rules.Check("x", [], 1.0)])
    assert one.n == 0 and one.answer == rules.UNTOLD and one.needed == rules.MOST
    with pytest.raises(ValueError, match="smallest effect"):
        rules.Check("x", [1.0], 0.0)


def test_final_seeds_are_no_exploratory_ones(rules):
    assert not set(rules.EXPLORATORY) & set(rules.FINAL) and len(rules.FINAL) >= 8
