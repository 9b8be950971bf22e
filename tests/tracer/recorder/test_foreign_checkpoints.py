"""Weights as other programs leave them: inside other objects, under other names, in folders, on the Hub."""

import argparse
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.loops import blobs, mlp
from tracer.errors import RecordError
from tracer.recorder.checkpoint_files import load_into
from tracer.recorder.checkpoint_names import steps_of
from tracer.recorder.checkpoints import import_checkpoints

safetensors = pytest.importorskip("safetensors.torch", reason="pip install tracer-nn[test]")

OPTIONS: dict[str, Any] = {"factory": mlp, "probes": {}}


def state(seed: int, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in mlp(seed).state_dict().items()}


def is_of(model: nn.Module, seed: int) -> bool:
    return all(torch.equal(value, state(seed)[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "contents",
    [
        {"model": state(5), "optimizer": {"state": {}}, "epoch": 3},
        {"state_dict": state(5), "best": 0.9},
        {"model_state_dict": state(5), "ema": state(6)},
        {"net": state(5, "module."), "step": torch.tensor(3)},
        {"state_dict": {**state(5, "model."), "loss.weight": torch.ones(3)}, "epoch": 1, "global_step": 4},
        {"state_dict": state(5, "_orig_mod.net.backbone.")},
        {"epoch": 3, "weights": state(5)},
    ],
    ids=["model", "state_dict", "beside an average", "data parallel", "lightning", "compiled", "any name"],
)
def test_the_state_of_the_model_is_found_in_what_was_saved(tmp_path: Path, contents: dict[str, Any]) -> None:
    torch.save(contents, tmp_path / "a.pt")
    model = mlp()
    notes = load_into(model, tmp_path / "a.pt", load_pt=True)
    assert is_of(model, 5)
    assert len(notes) == ("loss.weight" in str(contents.get("state_dict", {}).keys()))
    assert all("loss.weight" in note for note in notes)


def test_of_several_states_one_is_named(tmp_path: Path) -> None:
    model, file = mlp(), tmp_path / "a.pt"
    torch.save({"fast": state(1), "slow": state(2), "n": 1}, file)
    with pytest.raises(RecordError, match=r"'a\.pt' holds several states that fit the model: 'fast', 'slow'"):
        load_into(model, file, load_pt=True)
    load_into(model, file, load_pt=True, entry="slow")
    assert is_of(model, 2)
    with pytest.raises(RecordError, match="holds no state 'slwo'"):
        load_into(model, file, load_pt=True, entry="slwo")


def test_objects_beside_tensors_are_refused_with_their_name(tmp_path: Path) -> None:
    torch.save({"state_dict": state(1), "args": argparse.Namespace(lr=1)}, tmp_path / "a.ckpt")
    with pytest.raises(
        RecordError, match=r"'a\.ckpt' holds more than tensors \(argparse\.Namespace\).*alone"
    ):
        load_into(mlp(), tmp_path / "a.ckpt", load_pt=True)


NAMES = {
    "lightning": (["epoch=0-step=10", "epoch=1-step=20", "last"], [10, 20, None], False),
    "a measure": (["epoch=1-val_loss=0.25", "epoch=2-val_loss=0.17"], [1, 2], True),
    "trainer": (["checkpoint-500/model", "checkpoint-1000/model", "model"], [500, 1000, None], False),
    "a width": (["resnet50-100", "resnet50-200", "resnet50"], [100, 200, None], False),
    "a version": (["run-v2/w_3", "run-v2/w_12"], [3, 12], False),
    "folders": (["7/model", "14/model"], [7, 14], False),
    "revisions": (["step1000-tokens2B/model", "step2000-tokens4B/model"], [1000, 2000], False),
    "zeros": (["iter_0000100", "iter_0000200"], [100, 200], False),
    "epochs in runs": (["lr0.1/ep1", "lr0.1/ep2"], [1, 2], True),
}


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_told_apart_from_other_numbers(name: str) -> None:
    names, wanted, epochs = NAMES[name]
    assert steps_of(names) == (dict(zip(names, wanted, strict=True)), epochs)


def test_a_trainers_folder(tmp_path: Path) -> None:
    """Folders of checkpoints with what a trainer keeps beside the weights, and the last weights above them."""
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        safetensors.save_file(state(step), folder / "model.safetensors")
        for other in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            torch.save({"x": 1}, folder / other)
    safetensors.save_file(state(10), tmp_path / "model.safetensors")
    for load_pt in (False, True):
        made = import_checkpoints(tmp_path, tmp_path / f"{load_pt}.zarr", load_pt=load_pt, **OPTIONS)
        with tracer.open(made) as archive:
            assert archive.snapshots.tolist() == [5, 10]
            assert torch.equal(torch.from_numpy(archive.weights(5)["0.bias"]), state(5)["0.bias"])
            assert archive.attributes["notes"] == [
                "No step is in the names of 'model.safetensors', which are left out."
            ]


def test_names_that_say_epochs_end_them(tmp_path: Path) -> None:
    for epoch in (1, 2):
        torch.save({"state_dict": state(epoch)}, tmp_path / f"epoch={epoch}-acc={epoch / 10}.ckpt")
    made = import_checkpoints(tmp_path, tmp_path / "a.zarr", load_pt=True, **OPTIONS)
    with tracer.open(made) as archive:
        assert archive.epoch_ends.tolist() == [1, 2] and archive.card["imported"]["numbers"] == "epochs"


# ---- the Hub ----


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what its client asks of one model with two branches and a tag."""

    commits = {"main": "a" * 40, "step10": "b" * 40, "step20": "c" * 40}  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012  by commit

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: bool) -> None:
        place = self.path.partition("?")[0]
        if place.endswith("/refs"):
            branch = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": self.commits[name]}
                for name in ("main", "step10")
            ]
            tag = [{"name": "step20", "ref": "refs/tags/step20", "targetCommit": self.commits["step20"]}]
            return self._send(json.dumps({"branches": branch, "tags": tag, "converts": []}).encode(), body)
        revision = place.split("/")[-2] if "/resolve/" in place else place.split("/")[-1]
        commit = self.commits.get(revision, revision)
        if commit not in self.files:
            return self._send(b'{"error": "Revision Not Found"}', body, status=404, code="RevisionNotFound")
        data = self.files[commit]
        if "/resolve/" in place:
            return self._send(data, body, commit=commit)
        if "/tree/" in place:
            entry = {"type": "file", "path": "model.safetensors", "size": len(data), "oid": commit}
            return self._send(json.dumps([entry]).encode(), body)
        info = {"id": "ada/mlp", "sha": commit, "siblings": [{"rfilename": "model.safetensors"}]}
        return self._send(json.dumps(info).encode(), body)

    def _send(self, data: bytes, body: bool, status: int = 200, commit: str = "", code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for name, value in {
            "ETag": f'"{commit}"' * bool(commit),
            "X-Repo-Commit": commit,
            "X-Error-Code": code,
        }.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    pytest.importorskip("huggingface_hub")
    Hub.files = {
        commit: safetensors.save(state(seed))
        for seed, commit in zip((20, 10, 20), Hub.commits.values(), strict=True)
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_revisions_of_a_model_on_the_hub(hub: Any, tmp_path: Path) -> None:
    made = import_checkpoints(
        "hf://ada/mlp", tmp_path / "a.zarr", factory=mlp, probes={"train": blobs(8)}, loss=F.cross_entropy
    )
    with tracer.open(made) as archive:
        assert archive.snapshots.tolist() == [10, 20]
        assert torch.equal(torch.from_numpy(archive.weights(10)["0.bias"]), state(10)["0.bias"])
    made = import_checkpoints("hf://ada/mlp", tmp_path / "b.zarr", revisions=["step20"], **OPTIONS)
    assert tracer.open(made).snapshots.tolist() == [20]
    with pytest.raises(RecordError, match=r"'hf://ada/mlp' cannot be fetched from the Hub: "):
        import_checkpoints("hf://ada/mlp", tmp_path / "c.zarr", revisions=["step30"], **OPTIONS)
    with pytest.raises(RecordError, match="names no model on the Hub"):
        import_checkpoints("hf://ada", tmp_path / "c.zarr", **OPTIONS)
