"""The page of `tracer watch` in a real browser, with runs that begin, go on, die, come back and are removed."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count

import pytest

from analyze.watch.survey import Survey
from tests import ROOT
from tests.analyze.report.test_browser import CONTRAST, SANE
from tests.browser import launched
from tests.needs import need
from tests.synthetic import write_archive

need("browser", find_spec("uvicorn"), "the extra `watch` brings uvicorn")

import uvicorn  # noqa: E402

from analyze.watch.app import make_app  # noqa: E402

CHILD = """
import sys
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
import tracer
from tests.loops import blobs, mlp

torch.set_num_threads(1)
path, resume = sys.argv[1], sys.argv[2] == "resume"
model, (x, y) = mlp(), blobs()
if resume:  # its checkpoint is the last snapshot
    with tracer.open(path) as archive:
        weights = archive.weights(int(archive.steps("weights")[-1]))
    model.load_state_dict({name: torch.tensor(values) for name, values in weights.items()})
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(x, y), batch_size=8)
probes = {"train": (x[:12], y[:12]), "test": blobs(9, seed=7)}
with tracer.record(path, model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.epochs(),
                   resume=resume) as run:
    print("ready", flush=True)
    for _ in sys.stdin:
        for inputs, targets in run.batches(loader):
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        run.flush()
        print("epoch", flush=True)
"""


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@contextmanager
def served(folder):
    """The address of a server of a directory, in a thread of this process."""
    survey = Survey(str(folder), every=0.25)
    server = uvicorn.Server(uvicorn.Config(make_app(survey), log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            survey.start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
            survey.close()


@contextmanager
def opened(browser, address, **options):
    """A page that asks nobody but its server, and says nothing on the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page, said = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith((address, "data:")) or said.append(request.url))
    page.goto(address)
    yield page
    assert said == []
    context.close()


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def rows(page, count):
    page.wait_for_function("n => document.querySelectorAll('#runs tbody tr').length === n", arg=count)


def test_runs_appear_are_drawn_grouped_and_removed(browser, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    with served(folder) as address, opened(browser, address) as page:
        page.get_by_text("No runs yet").wait_for()
        write_archive(folder / "a.zarr", steps=(0, 2, 4))
        rows(page, 1)
        page.locator("[data-chart=margin] .curve").wait_for()
        write_archive(folder / "b.zarr", steps=(0, 2, 8), seed=1, state="recording")
        rows(page, 2)
        page.wait_for_function("() => document.querySelectorAll('[data-chart=margin] .curve').length === 2")
        # The times of this archive are long ago: whoever wrote it has died.
        assert texts(page, "tbody .state")[0] == "complete" and "silent for" in texts(page, "tbody .state")[1]
        assert texts(page, "#count") == ["2 runs: 1 complete, 1 silent"]
        assert "Training loss, every update" in texts(page, "figcaption")

        page.get_by_label("Colour by").select_option("steps")
        page.locator("#legend li", has_text="steps 8").wait_for()
        assert texts(page, "#legend li") == ["steps 4", "steps 8"]
        page.get_by_label("Over").select_option("epoch")
        page.locator("[data-chart=margin] text", has_text="epoch").wait_for()
        page.get_by_label("logarithmic time").check()
        page.get_by_label("Colour by").select_option("")
        page.wait_for_function("() => document.querySelectorAll('#legend li').length === 0")
        page.get_by_label("draw b").uncheck()
        page.wait_for_function("() => document.querySelectorAll('[data-chart=margin] .curve').length === 1")

        page.locator("[data-chart=margin] svg").hover()
        assert texts(page, ".tip li")[0].startswith("epoch ") and texts(page, ".tip li")[1].startswith("a")
        assert page.evaluate(SANE) == []
        assert min(page.evaluate(CONTRAST, "p, th, td, .note, .state, label, svg text")) >= 4.5

        page.get_by_role("link", name="a", exact=True).click()
        page.get_by_role("heading", name="a", exact=True).wait_for()
        rows(page, 1)
        with page.expect_navigation():
            page.get_by_role("link", name="report").click()
        assert page.get_by_role("heading", level=1).count() == 1
        page.go_back()
        rows(page, 1)
        shutil.rmtree(folder / "a.zarr")
        page.get_by_role("heading", name="This run is not here any more").wait_for()


def test_an_attribute_that_is_called_like_a_column_is_told_from_it(browser, tmp_path, monkeypatch):
    losses = count()
    monkeypatch.setattr("analyze.watch.survey.attributes_of", lambda _: {"loss": f"loss {next(losses)}"})
    for name in "ab":
        write_archive(tmp_path / f"{name}.zarr", steps=(0, 2))
    with served(tmp_path) as address, opened(browser, address) as page:
        rows(page, 2)
        assert texts(page, "thead th")[-1] == "loss (setting)"


def test_dark_and_small_pages_can_be_read(browser, tmp_path):
    write_archive(tmp_path / "a.zarr", steps=(0, 2, 4))
    with served(tmp_path) as address:
        context = browser.new_context(color_scheme="dark", viewport={"width": 390, "height": 800})
        page = context.new_page()
        page.goto(address)
        page.locator("[data-chart=margin] .curve").wait_for()
        assert min(page.evaluate(CONTRAST, "p, th, td, .note, .state, label, svg text")) >= 4.5
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        context.close()


@contextmanager
def training(path, how="new"):
    """A process that trains an epoch for each call."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", CHILD, str(path), how]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as child:

        def epoch():
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "epoch\n"

        try:
            assert child.stdout.readline() == "ready\n"
            yield child, epoch
        finally:
            child.kill()


def at_least(page, updates):
    script = "n => +document.querySelector('#runs tbody .number')?.firstChild?.textContent >= n"  # once it is listed
    page.wait_for_function(script, arg=updates)


@pytest.mark.slow
def test_a_run_is_followed_while_it_trains_dies_and_goes_on(browser, tmp_path):
    """The command as it is typed, beside a training in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    watch = [sys.executable, "-m", "tracer", "watch", str(tmp_path), "--port", "0", "--every", "0.1"]
    path = tmp_path / "live.zarr"
    with subprocess.Popen(watch, stdout=subprocess.PIPE, env=environment, cwd=tmp_path, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            with opened(browser, address) as page:
                page.get_by_text("No runs yet").wait_for()
                with training(path) as (child, epoch):
                    for k in range(1, 4):
                        epoch()
                        at_least(page, 3 * k)
                    page.locator(".recording").wait_for()
                    page.locator("[data-chart=stiffness] .curve").wait_for()
                    epoch()
                    child.kill()
                before = page.locator("#runs tbody .number").first.inner_text()
                with training(path, "resume") as (child, epoch):
                    for _ in range(3):
                        epoch()
                    at_least(page, int(before.split()[0]) + 5)
                    child.stdin.close()
                    assert child.wait() == 0
                page.locator("tbody .complete").wait_for()
                shutil.rmtree(path)
                page.get_by_text("No runs yet").wait_for()
        finally:
            server.terminate()
    assert server.returncode == 0
