"""Made the frozen archives of this format version: `python -m tests.archives.make`, once a version.

`run.zarr` is as recorded; `run.zip` is packed, and holds the training minibatches and set as well; `sketches.zip` is
packed, and holds sketches of gradients in their place.
`numbers.npz` holds what PyTorch itself says of the same run.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tracer.share.packs import pack
from tracer.spec import FORMAT_VERSION

STEPS = (0, 3, 6)
N_GRADIENTS = 4
TOLERANCE = 0.25  # 16 numbers a layer


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.LayerNorm(5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def data() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    rng = np.random.default_rng(0)
    made = {}
    for name, n in {"train": 10, "test": 7}.items():
        x = rng.random((n, 1, 6, 6)).astype(np.float32)
        made[name] = torch.from_numpy(x), torch.arange(n) % 3
    return made


def gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            rows[name].append(parameter.grad.numpy().copy())
    model.zero_grad()
    return {name: np.stack(values) for name, values in rows.items()}


def observe(model: nn.Module, step: int) -> dict[str, np.ndarray]:
    """What PyTorch says at a step, by name."""
    seen = {f"weights/{step}/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    joint = []
    for probe, (x, y) in data().items():
        with torch.no_grad():
            hidden = model[0](x)
            outputs = model(x)
            second = model[4](model[3](torch.relu(hidden).flatten(1)))
        seen[f"outputs/{probe}/{step}"] = outputs.numpy()
        seen[f"loss/{probe}/{step}"] = F.cross_entropy(outputs, y, reduction="none").numpy()
        seen[f"masks/{probe}/{step}/1"] = (hidden.flatten(1) > 0).numpy()
        seen[f"masks/{probe}/{step}/5"] = (second > 0).numpy()
        found = gradients(model, x[:N_GRADIENTS], y[:N_GRADIENTS])
        seen |= {f"gradients/{probe}/{step}/{name}": values for name, values in found.items()}
        joint.append(np.concatenate([v.reshape(N_GRADIENTS, -1) for v in found.values()], 1).astype("f8"))
    rows = np.concatenate(joint)
    return seen | {f"gram/{step}": rows @ rows.T}  # of the whole network


def train(path: Path, **options: object) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = data()["train"]
    taken = {"train": {"activations": 3}, "test": {"sums": 0}}
    probes = {
        name: tracer.Probe(*pair, raw=pair[0], capture={"gradients": N_GRADIENTS, **taken[name]})
        for name, pair in data().items()
    }
    seen = observe(model, 0)
    dataset = torch.utils.data.TensorDataset(x, y)
    batches = [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches)
    ids, losses, step = [], [], 0
    settings = {"loss": F.cross_entropy, "probes": probes, "snapshots": tracer.every(3), "gradients": "exact"}
    with tracer.record(path, model, optimizer, command=False, title="frozen", **settings | options) as run:
        for _ in range(2):
            for inputs, targets in run.batches(loader):
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss, twice=2 * loss.item())
                ids.append(batches[step % 3])
                losses.append(loss.item())
                step += 1
                if step in STEPS:
                    seen |= observe(model, step)
    return seen | {"losses": np.array(losses), "ids": np.concatenate(ids)}


def make(folder: Path) -> None:
    folder.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        live = Path(temporary) / "run.zarr"
        numbers = train(live)
        shutil.copytree(live, folder / "run.zarr")
        shutil.rmtree(live)
        x, y = data()["train"]
        train(live, minibatch=True, data=torch.utils.data.TensorDataset(x, y))
        pack(live, folder / "run.zip", zip=True)
        shutil.rmtree(live)
        train(live, gradients="sketch", tolerance=TOLERANCE)
        pack(live, folder / "sketches.zip", zip=True)
    np.savez_compressed(folder / "numbers.npz", **numbers)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Path(__file__).parent / FORMAT_VERSION)
