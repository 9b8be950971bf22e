"""Problems in the plane, where a boundary can be seen: points of two classes, and the boundary learned."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from training_data import Data

SIDE = 80  # points along each axis of the grid on which the boundary is looked for


def plane(name: str, train: int, test: int, seed: int = 0, noise: float = 0.12) -> Data:
    """Points (example, 2) of two classes in the plane: scikit-learn's `moons`, or `circles` in each other."""
    from sklearn.datasets import make_circles, make_moons

    def draw(n: int, part: int) -> list[Tensor]:
        options: Any = {"n_samples": n, "noise": noise, "random_state": 1000 * seed + part}
        x, y = make_circles(factor=0.5, **options) if name == "circles" else make_moons(**options)
        return [torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)]

    (x, y), (x_test, y_test) = draw(train, 0), draw(test, 1)
    key = f"{name}, {train} train, {test} test, noise {noise:g}, seed {seed}"
    return Data(x, y, x_test, y_test, y, torch.zeros_like(y), torch.zeros(2), torch.ones(2), key)


def grid(data: Data) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Points (SIDE², 2) that cover the examples, and their coordinates along each axis."""
    low, high = data.x_train.amin(0) - 0.2, data.x_train.amax(0) + 0.2
    sides = [torch.linspace(float(a), float(b), SIDE) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*sides), [side.numpy() for side in sides]


def to_boundary(x: np.ndarray, points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Distance (example,) to the nearest grid point next to which the sign of the scores changes."""
    side, edge = scores > 0, np.zeros(scores.shape, bool)
    edge[:-1] |= side[:-1] != side[1:]
    edge[:, :-1] |= side[:, :-1] != side[:, 1:]
    return np.linalg.norm(x[:, None] - points[edge.ravel()], axis=-1).min(1, initial=np.inf)


def mixed(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Share (example,) of the 10 nearest neighbours that are of another class."""
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    np.fill_diagonal(distance, np.inf)
    return (label[np.argsort(distance, 1)[:, :10]] != label[:, None]).mean(1)


def auc(near: np.ndarray, value: np.ndarray) -> float:
    """Probability that a near example has the higher value; NaN without both kinds, undefined values left out."""
    from sklearn.metrics import roc_auc_score

    defined = ~np.isnan(value)
    both = len(np.unique(near[defined])) == 2
    return float(roc_auc_score(near[defined], value[defined])) if both else np.nan
