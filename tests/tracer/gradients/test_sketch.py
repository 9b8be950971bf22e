"""Sketches: without bias over all signs there are, as exact as they say, and the same everywhere."""

from itertools import product

import pytest
import torch

from tracer.gradients.forms import Outer
from tracer.gradients.sketch import Sketch, inner_products, signs

SIGNS = [-1, -1, -1, 1, 1, 1, 1, 1, 1, 1, -1, -1]  # for the key "0 l weight"


def form(n=4, positions=3, inputs=5, outputs=6, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, positions, inputs, generator=generator)
    return Outer(a, torch.randn(n, positions, outputs, generator=generator), bias=bias)


def exact(form):
    """Inner products of the gradients themselves, weight and bias, one example after the other."""
    rows = [
        torch.cat([(z.T.double() @ a.double()).flatten(), z.double().sum(0) * form.bias])
        for a, z in zip(form.a, form.z, strict=True)
    ]
    return torch.stack([torch.stack([x @ y for y in rows]) for x in rows])


@pytest.mark.parametrize("bias", [False, True])
def test_the_mean_over_all_signs_is_the_inner_product(bias):
    """Two outputs and two inputs (with a bias three) have few enough signs to try each."""
    given = form(n=3, positions=2, inputs=2, outputs=2, bias=bias)
    width = 2 + bias
    every = torch.tensor(list(product((-1.0, 1.0), repeat=2 + width)))
    sketch = Sketch(every[:, :2, None], every[:, 2:, None])
    estimate, _ = inner_products(sketch.take(given))
    torch.testing.assert_close(estimate, exact(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [1, 4])
def test_a_tolerance_is_kept_and_the_error_bar_says_how_far_off_it_is(side):
    given = form(n=12, positions=2, inputs=30, outputs=20)
    truth = exact(given)
    lengths = truth.diagonal().sqrt()
    off, told = [], []
    for seed in range(30):
        sketch = Sketch.of(given, "weight", seed=seed, tolerance=0.2, side=side)
        estimate, error = inner_products(sketch.take(given))
        off.append((estimate - truth) / lengths / lengths[:, None])
        told.append(error / lengths / lengths[:, None])
    squared = torch.stack(off).square().mean(0)
    assert squared.sqrt().max() < 0.2 * 1.3  # of 30 draws
    torch.testing.assert_close(torch.stack(told).square().mean(), squared.mean(), rtol=0.15, atol=0.0)
    assert torch.stack(off).mean(0).abs().max() < 4 * 0.2 / 30**0.5


def test_sketches_of_two_sets_meet_where_their_seed_and_name_are_one():
    probes, training = form(seed=1), form(n=7, seed=2)
    joined = Outer(torch.cat([probes.a, training.a]), torch.cat([probes.z, training.z]), bias=True)
    sketch, again = (Sketch.of(some, "weight", tolerance=0.2) for some in (probes, training))
    estimate, error = inner_products(sketch.take(probes), again.take(training))
    assert estimate.shape == error.shape == (4, 7)
    whole, _ = inner_products(sketch.take(joined))
    torch.testing.assert_close(estimate, whole[:4, 4:])
    other = Sketch.of(probes, "other weight", tolerance=0.2)
    assert not torch.equal(other.left, sketch.left)


def test_signs_are_those_of_their_key_for_ever():
    assert signs((12,), "0 l weight").tolist() == SIGNS
    assert abs(signs((100, 100), "any").mean()) < 0.05


def test_one_group_has_no_error_bar_and_a_wrong_tolerance_is_refused():
    _, error = inner_products(torch.ones(2, 1, 4))
    assert error.isnan().all()
    with pytest.raises(ValueError, match="0 < tolerance < 1"):
        Sketch.of(form(), "weight", tolerance=2)
