"""A small archive with every stream, written through Writer: a network trained in NumPy, exactly known."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tracer import bits
from tracer.writer import Writer

WIDTHS = (6, 8, 5, 3)
LAYERS = ("fc1", "fc2", "fc3")
TOKENS = ("log_prob", "correct", "loss")
EPOCH = 4  # updates in an epoch
SITES = [
    {
        "name": "relu",
        "op": "aten.relu.default",
        "module": "relu",
        "shape": [8],
        "n_units": 8,
        "start": 0,
        "has_mask": True,
    },
    {
        "name": "tanh",
        "op": "aten.tanh.default",
        "module": "tanh",
        "shape": [5],
        "n_units": 5,
        "start": None,
        "has_mask": False,
    },
]
CALLS = [
    {"name": name, "op": "aten.linear.default", "module": name, "shape": [width]}
    for name, width in zip(LAYERS, WIDTHS[1:], strict=True)
]


@dataclass
class Truth:
    """What was written: `snapshots[step]` maps (group, array) to values, the rest is by name."""

    steps: list[int]
    probes: dict[str, dict[str, np.ndarray]]
    weights: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    snapshots: dict[int, dict[tuple[str, str], np.ndarray]] = field(default_factory=dict)
    gradients: dict[tuple[str, int], dict[str, np.ndarray]] = field(default_factory=dict)
    ids: dict[int, np.ndarray] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    minibatches: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # with `masks` (id, unit)


def write_archive(
    path: str | Path,
    *,
    steps: Sequence[int] = (0, 1, 2, 4, 8),
    probes: Mapping[str, int] | None = None,
    n_gradients: int = 6,
    state: str = "complete",
    seed: int = 0,
    gram: bool = True,
    tokens: int = 0,
) -> Truth:
    """Write an archive with snapshots at `steps` (the last is the number of updates) and close it.

    `probes` maps names, which are also splits, to numbers of examples; the first `n_gradients` have
    gradients. `tokens`: how many answers each example has in the stream of that name, which has nothing to do with the
    network.
    """
    rng = np.random.default_rng(seed)
    truth = Truth(sorted(steps), make_probes(rng, probes or {"train": 16, "test": 12}))
    weights = make_weights(rng)
    writer = Writer(path, attributes=root_attributes(weights, n_updates=truth.steps[-1]))
    declare(writer, truth.probes, weights, n_gradients, gram)
    for name, probe in truth.probes.items() if tokens else ():
        column = ("float32", (len(probe["id"]), tokens), ("tokens_example", "token"))
        writer.stream(f"probes/{name}/tokens", dict.fromkeys(TOKENS, column), {"first": 0})
    for step in range(truth.steps[-1] + 1):
        if step:
            probe = next(iter(truth.probes.values()))
            ids, seen = train(rng, weights, probe, rate(step, truth.steps[-1]))
            truth.ids[step], truth.losses[step] = ids, float(seen["loss"].mean())
            truth.minibatches[step] = seen
        writer.row(
            step,
            epoch=-(-step // EPOCH),
            time=1.7e9 + step,
            ids=truth.ids.get(step),
            loss=truth.losses.get(step, float("nan")),
            lr=[rate(step, truth.steps[-1])],
            skipped=False,
            scalars={"accuracy": step / 10} if step > 1 else {},
            examples={
                f"minibatch/{n}": v for n, v in truth.minibatches.get(step, {}).items() if n != "masks"
            },
        )
        if step and step in truth.steps:
            packed = {"bits": bits.pack(truth.minibatches[step]["masks"]), "n": np.array(5, np.int32)}
            writer.append("minibatch/masks", step, step % EPOCH == 0, packed)
        if step in truth.steps:
            truth.weights[step] = {name: values.copy() for name, values in weights.items()}
            truth.snapshots[step] = observe(truth, step, n_gradients, gram)
            for name, probe in truth.probes.items() if tokens else ():
                drawn = np.random.default_rng(step).random(
                    (len(TOKENS), len(probe["id"]), tokens), np.float32
                )
                pairs = zip(TOKENS, drawn, strict=True)
                truth.snapshots[step] |= {(f"probes/{name}/tokens", array): v for array, v in pairs}
            for group in dict.fromkeys(group for group, _ in truth.snapshots[step]):
                arrays = {
                    name: values for (owner, name), values in truth.snapshots[step].items() if owner == group
                }
                writer.append(group, step, step > 0 and step % EPOCH == 0, arrays)
        writer.commit()
    writer.close(state=state)
    return truth


def rate(step: int, last: int) -> float:
    return 0.5 if step <= last // 2 else 0.05


def make_probes(rng: np.random.Generator, sizes: Mapping[str, int]) -> dict[str, dict[str, np.ndarray]]:
    centres = rng.normal(size=(WIDTHS[-1], WIDTHS[0]))
    made = {}
    for name, n in sizes.items():
        targets = np.arange(n) % WIDTHS[-1]
        inputs = (centres[targets] + rng.normal(scale=0.7, size=(n, WIDTHS[0]))).astype(np.float32)
        raw = np.clip(inputs / 8 + 0.5, 0, 1)
        made[name] = {"id": np.arange(n) * 2, "inputs": inputs, "targets": targets, "raw": raw}
    return made


def make_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    for layer, n_in, n_out in zip(LAYERS, WIDTHS, WIDTHS[1:], strict=False):
        weights[f"{layer}.weight"] = rng.normal(scale=n_in**-0.5, size=(n_out, n_in)).astype(np.float32)
        weights[f"{layer}.bias"] = np.zeros(n_out, np.float32)
    weights["count"] = np.zeros((), np.int64)
    return weights


def tensor_table(weights: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    table, used = [], dict.fromkeys((str(values.dtype) for values in weights.values()), 0)
    for name, values in weights.items():
        dtype, layer = str(values.dtype), name.rpartition(".")[0] or None
        table.append(
            {
                "name": name,
                "kind": "parameter" if layer else "buffer",
                "shape": list(values.shape),
                "dtype": dtype,
            }
            | {
                "source_dtype": dtype,
                "array": dtype,
                "offset": used[dtype],
                "trainable": layer is not None,
                "layer": layer,
            }
        )
        used[dtype] += values.size
    return table


def root_attributes(weights: Mapping[str, np.ndarray], n_updates: int) -> dict[str, Any]:
    return {
        "title": "synthetic",
        "card": {
            "model": "Synthetic",
            "optimizer": "SGD",
            "loss": "cross_entropy",
            "attributes": {"n_parameters": 128, "steps": n_updates},
        },
        "sites": SITES,
        "calls": CALLS,
        "layers": [{"name": layer, "parameters": [f"{layer}.weight", f"{layer}.bias"]} for layer in LAYERS],
        "tensors": tensor_table(weights),
    }


def blocks(n: int) -> list[dict[str, Any]]:
    """First and last layer as factors, the middle one as full rows."""
    offset, made = 0, []

    def part(name: str, *shape: int) -> dict[str, Any]:
        nonlocal offset
        offset += int(np.prod(shape))
        return {"name": name, "offset": offset - int(np.prod(shape)), "shape": list(shape)}

    for layer, n_in, n_out in zip(LAYERS, WIDTHS, WIDTHS[1:], strict=False):
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        if layer == "fc2":
            made.append({"tensor": weight, "form": "full", "parts": [part("grad", n, n_out, n_in)]})
            made.append({"tensor": bias, "form": "full", "parts": [part("grad", n, n_out)]})
        else:
            made.append(
                {"tensor": weight, "form": "outer", "parts": [part("a", n, 1, n_in), part("z", n, 1, n_out)]}
            )
            made.append({"tensor": bias, "form": "sum", "source": len(made) - 1, "parts": []})
    return made


def declare(
    writer: Writer,
    probes: Mapping[str, dict[str, np.ndarray]],
    weights: Mapping[str, np.ndarray],
    n: int,
    gram: bool,
) -> None:
    table, scale = np.frombuffer(b'{"rows":[]}', np.uint8), np.array(0.5, np.float32)
    versions = {
        "versions": [{"version": 0, "from_step": 0, "digest": "0", "constants": {"scale": "constant_0_0"}}]
    }
    dims = {"table_0": ("byte_0",), "constant_0_0": ()}
    writer.static("network", {"table_0": table, "constant_0_0": scale}, dims, versions)
    writer.attributes("ranks", {"world_size": 1})
    sizes = {
        dtype: sum(v.size for v in weights.values() if v.dtype == dtype) for dtype in ("float32", "int64")
    }
    writer.stream("weights", {name: (name, (size,), (f"{name}_element",)) for name, size in sizes.items()})
    for name, arrays in probes.items():
        count, group = len(arrays["id"]), f"probes/{name}"
        dims = {
            "id": ("example",),
            "targets": ("example",),
            "inputs": ("example", "input"),
            "raw": ("example", "input"),
        }
        capture = {"outputs": count, "masks": count, "sums": count, "activations": count, "gradients": n}
        writer.static(
            group, arrays, dims, {"split": name, "capture": capture, "chunks": [[0, count]], "digest": name}
        )
        one = ("outputs_example",)
        writer.stream(
            f"{group}/outputs",
            {
                "outputs": ("float32", (count, WIDTHS[-1]), (*one, "output")),
                "loss": ("float32", (count,), one),
            },
        )
        writer.stream(
            f"{group}/masks", {"bits": ("uint8", (WIDTHS[1], -(-count // 8)), ("unit", "masks_byte"))}
        )
        pre, post = (
            ("float64", (count, 3), ("sums_example", "call")),
            ("float64", (count, 2), ("sums_example", "site")),
        )
        writer.stream(f"{group}/sums", {"pre": pre, "post": post})
        units = ("activations_example", "activations_unit")
        writer.stream(f"{group}/activations", {"values": ("float32", (count, WIDTHS[1] + WIDTHS[2]), units)})
        made = blocks(n)
        size = sum(int(np.prod(part["shape"])) for block in made for part in block["parts"])
        writer.stream(
            f"{group}/gradients", {"values": ("float32", (size,), ("gradients_element",))}, {"blocks": made}
        )
    declare_training(writer, next(iter(probes.values())))
    if gram:
        shape = (len(LAYERS), n * len(probes), n * len(probes))
        order = {"probes": [[name, n] for name in probes]}
        writer.stream("gram", {"gram": ("float64", shape, ("layer", "example", "example_2"))}, order)


def declare_training(writer: Writer, probe: Mapping[str, np.ndarray]) -> None:
    columns = {
        "loss": ("float64", (), ()),
        "correct": ("int8", (), ()),
        "pre": ("float32", (3,), ("call",)),
        "post": ("float32", (2,), ("site",)),
    }
    captured = ["loss", "correct", "sums", "masks"]
    writer.ragged("minibatch", columns, {"mode": "train", "captured": captured})
    masks = {"bits": ("uint8", (WIDTHS[1], 1), ("unit", "masks_byte")), "n": ("int32", (), ())}
    writer.stream("minibatch/masks", masks, {"missing": []})
    arrays = {
        "id": probe["id"],
        "label": probe["targets"],
        "alpha": probe["raw"].std(axis=1).astype(np.float64),
        "digest": np.arange(16 * len(probe["id"])).reshape(-1, 16).astype(np.uint8),
        "inputs": probe["inputs"],
    }
    dims = {
        name: ("example", *(["digest_byte"] if name == "digest" else ["input"])[: v.ndim - 1])
        for name, v in arrays.items()
    }
    writer.static("data", arrays, dims, {"complexity": {"bins": 1000, "range": [0, 1]}})


def forward(weights: Mapping[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """pre1, relu, pre2, tanh, outputs."""
    pre1 = x @ weights["fc1.weight"].T + weights["fc1.bias"]
    hidden = np.maximum(pre1, 0)
    pre2 = hidden @ weights["fc2.weight"].T + weights["fc2.bias"]
    second = np.tanh(pre2)
    return [pre1, hidden, pre2, second, second @ weights["fc3.weight"].T + weights["fc3.bias"]]


def per_example(
    weights: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Losses, and the factors (a, z) of each layer."""
    pre1, hidden, _, second, outputs = forward(weights, x)
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    z3 = np.exp(logs) - np.eye(WIDTHS[-1], dtype=np.float32)[y]
    z2 = (z3 @ weights["fc3.weight"]) * (1 - second**2)
    z1 = (z2 @ weights["fc2.weight"]) * (pre1 > 0)
    return -logs[np.arange(len(y)), y], {"fc1": (x, z1), "fc2": (hidden, z2), "fc3": (second, z3)}


def train(
    rng: np.random.Generator, weights: dict[str, np.ndarray], probe: Mapping[str, np.ndarray], lr: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One SGD update on five examples of the probe; returns their ids and what was seen of them before it."""
    chosen = rng.choice(len(probe["id"]), size=5, replace=False)
    pre1, hidden, pre2, second, outputs = forward(weights, probe["inputs"][chosen])
    seen = {
        "correct": (outputs.argmax(axis=1) == probe["targets"][chosen]).astype(np.int8),
        "pre": np.stack([a.sum(axis=1) for a in (pre1, pre2, outputs)], axis=1),
        "post": np.stack([a.sum(axis=1) for a in (hidden, second)], axis=1),
        "masks": pre1 > 0,
    }
    losses, factors = per_example(weights, probe["inputs"][chosen], probe["targets"][chosen])
    for layer, (a, z) in factors.items():
        weights[f"{layer}.weight"] -= np.float32(lr) * (z.T @ a) / np.float32(5)
        weights[f"{layer}.bias"] -= np.float32(lr) * z.mean(axis=0)
    weights["count"] += 1
    return probe["id"][chosen], {"loss": losses.astype(np.float64), **seen}


def observe(truth: Truth, step: int, n: int, gram: bool) -> dict[tuple[str, str], np.ndarray]:
    weights = truth.weights[step]
    seen = {("weights", dtype): flat(weights, dtype) for dtype in ("float32", "int64")}
    rows: list[np.ndarray] = []
    for name, probe in truth.probes.items():
        group = f"probes/{name}"
        pre1, hidden, pre2, second, outputs = forward(weights, probe["inputs"])
        losses, factors = per_example(weights, probe["inputs"], probe["targets"])
        seen[f"{group}/outputs", "outputs"], seen[f"{group}/outputs", "loss"] = outputs, losses
        seen[f"{group}/masks", "bits"] = bits.pack(pre1 > 0)
        seen[f"{group}/sums", "pre"] = np.stack(
            [a.sum(axis=1, dtype="f8") for a in (pre1, pre2, outputs)], axis=1
        )
        seen[f"{group}/sums", "post"] = np.stack(
            [a.sum(axis=1, dtype="f8") for a in (hidden, second)], axis=1
        )
        seen[f"{group}/activations", "values"] = np.concatenate([hidden, second], axis=1)
        values = {layer: (a[:n], z[:n]) for layer, (a, z) in factors.items()}
        full = {f"{layer}.weight": z[:, :, None] * a[:, None, :] for layer, (a, z) in values.items()}
        full |= {f"{layer}.bias": z for layer, (_, z) in values.items()}
        truth.gradients[name, step] = full
        stored = [*values["fc1"], full["fc2.weight"], full["fc2.bias"], *values["fc3"]]
        seen[f"{group}/gradients", "values"] = np.concatenate([array.ravel() for array in stored]).astype(
            "f4"
        )
        layers = [
            np.concatenate([full[f"{layer}.weight"].reshape(n, -1), full[f"{layer}.bias"]], 1)
            for layer in LAYERS
        ]
        rows.append(np.concatenate(layers, axis=1).astype("f8"))
    if gram:
        joint = np.concatenate(rows)
        ends = np.cumsum([(n_in + 1) * n_out for n_in, n_out in pairwise(WIDTHS)])
        pieces = np.split(joint, ends[:-1], axis=1)
        seen["gram", "gram"] = np.stack([piece @ piece.T for piece in pieces])
    return seen


def flat(weights: Mapping[str, np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate([values.ravel() for values in weights.values() if values.dtype == dtype])


def diverging(monkeypatch: Any, after: int) -> None:
    """From now on the loss of archives that are written is NaN after so many updates."""
    made, updates = train, itertools.count(1)

    def train_until(*given: Any) -> tuple[Any, Any]:
        ids, seen = made(*given)
        return ids, seen if next(updates) <= after else {**seen, "loss": np.full_like(seen["loss"], np.nan)}

    monkeypatch.setattr("tests.synthetic.train", train_until)
