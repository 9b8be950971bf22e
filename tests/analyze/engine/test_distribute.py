"""Other processes and a real Dask cluster give what one process gives, and survive the loss of a worker."""

import os
import pickle
import sys
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import xarray as xr
from click.testing import CliRunner

import analyze
import cli
import tracer
from analyze.contract import metric
from analyze.engine import distribute
from analyze.engine.distribute import TRIES, Job, Processes, Workers, by_turns, complete, packed, perform
from analyze.engine.fingerprint import sources
from analyze.errors import AnalysisError
from tests.dying import ABOUT, fails_late, fatal
from tests.synthetic import write_archive

NAMES = ["stiffness", "tracin", "cna", "path_cross_similarity", "path_neighbours"]


class Threads(Workers):
    """Workers that live in this process but are spoken to as if they did not."""

    name = "these threads"

    def __init__(self, n=2, code=None):
        self.n, self.code, self.pool = n, code or sources(), ThreadPoolExecutor(n)

    def _submit(self, task, tries):
        return self.pool.submit(perform, task, self.code)


@pytest.fixture
def threads(monkeypatch):
    found = Threads()
    monkeypatch.setattr(distribute, "Processes", lambda jobs: found)
    yield found
    found.pool.shutdown()


@pytest.fixture(scope="module")
def path(everything):
    return everything


@pytest.fixture(scope="module")
def serial(path):
    return analyze.run(path, NAMES)


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    # One worker, in this process, to which one speaks as to any: that several give what one gives is asked of
    # processes and of threads, and what becomes of a worker that dies of processes and, rarely, of a cluster of them.
    options = {
        "n_workers": 1,
        "threads_per_worker": 1,
        "processes": False,
        "protocol": "tcp",
        "host": "127.0.0.1",
    }
    with LocalCluster(**options, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def processes():
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with LocalCluster(**options, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster


def same(first, second):
    """Whether two sets of results agree in every bit, apart from when they were made."""
    for name in first:
        xr.testing.assert_identical(*(data[name].drop_attrs(deep=False) for data in (first, second)))
    return set(first) == set(second)


def test_a_cluster_gives_what_one_process_gives(path, serial, cluster):
    seen = []
    found = analyze.run(
        f"file://{path}", NAMES, scheduler=cluster.scheduler_address, progress=lambda *x: seen.append(x)
    )
    assert same(serial, found)
    assert len({text for _, _, text in seen}) >= 5 and all(0 <= done <= total for done, total, _ in seen)


@pytest.mark.slow
def test_a_cluster_of_processes_runs_networks_too(path, processes):
    """Every worker imports PyTorch for it, which takes longer than all other tests of a cluster."""
    found = analyze.run(path, ["jacobian"], scheduler=processes.scheduler_address)
    assert same(analyze.run(path, ["jacobian"]), found)


@pytest.mark.slow
def test_a_lost_worker_is_survived(path, processes, tmp_path):
    from distributed import Client

    marker = tmp_path / "killed"
    options = {"fatal": {"marker": str(marker), "tester": os.getpid()}}
    with Client(processes, set_as_default=False) as client:
        found = analyze.run(path, [fatal, "stiffness"], scheduler=client, options=options)
        assert client.status == "running", "a client that was given is left open"
    assert marker.exists(), "no worker was killed"
    assert same(analyze.run(path, [fatal, "stiffness"], options=options), found)


@pytest.mark.slow  # the functions take one by default, and the option is theirs
@pytest.mark.usefixtures("undrawn")
def test_commands_take_a_scheduler(tmp_path, cluster):
    for name, seed in (("a", 0), ("b", 1)):
        write_archive(tmp_path / f"{name}.zarr", seed=seed)
    runs, where = [str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")], cluster.scheduler_address
    outcome = CliRunner().invoke(cli.main, ["analyze", runs[0], "-m", "margin", "--scheduler", where])
    assert outcome.exit_code == 0, outcome.output
    asked = ["-m", "stiffness", "--bootstrap", "0", "--format", "csv"]
    outcome = CliRunner().invoke(cli.main, ["compare", *runs, *asked, "--scheduler", where])
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "b.analysis" / "report.html").is_file(), "written where the results are"
    assert outcome.stdout == CliRunner().invoke(cli.main, ["compare", *runs, *asked]).stdout
    stored = analyze.results.load(tmp_path / "b.analysis")
    assert same(analyze.run(runs[1], ["stiffness"]), {"stiffness": stored["stiffness"]})


def test_a_process_that_dies_is_replaced_and_one_that_always_does_is_told(path, tmp_path):
    marker = tmp_path / "killed"
    options = {"fatal": {"marker": str(marker), "tester": os.getpid()}}
    found = analyze.run(path, [fatal, "generalization"], jobs=2, options=options)
    assert marker.exists() and same(analyze.run(path, [fatal, "generalization"], options=options), found)
    options["fatal"]["marker"] = ""
    with pytest.raises(AnalysisError, match=r"fatal: the process that computed it died 3 times.*--memory"):
        analyze.run(path, [fatal], jobs=2, options=options)


def test_a_task_names_its_metrics_and_holds_no_code(path, threads):
    sent = []
    threads.begin = lambda task: sent.append(packed(task)) or Workers.begin(threads, task)
    analyze.run(path, ["jacobian", "stiffness"], jobs=2)
    assert len(sent) > 2 and all(b"torch" not in task and len(task) < 4000 for task in sent)
    assert {plan.card.name for task in sent for plan in pickle.loads(task).block.plans} >= {"jacobian"}


def test_failures_are_those_of_one_process(path, threads):
    messages = []
    for jobs in (1, 2):
        with pytest.raises(AnalysisError) as caught:
            analyze.run(path, [fails_late, "stiffness"], jobs=jobs)
        messages.append(str(caught.value))
    first = min(step for step in tracer.open(path).snapshots if step >= 4)
    assert messages == [f"fails_late: failed with ValueError: no luck at step {first}"] * 2


def test_a_metric_of_a_notebook_is_computed_in_this_process(path, threads):
    def here(losses):
        """Known to nobody else."""
        return {"a": losses.mean(-1) + os.getpid()}

    metric(reads=("losses",), **ABOUT)(here)
    threads._submit = lambda task, tries: pytest.fail("it was sent away")
    assert analyze.run(path, here, jobs=2)["here"]["a"].notnull().all()


def test_a_worker_with_other_code_or_without_the_archive_is_told(path, threads, monkeypatch):
    monkeypatch.setattr(distribute, "address", lambda path: path)
    monkeypatch.setattr("analyze.engine.apart.address", lambda path: "/nowhere/run.zarr")
    with pytest.raises(
        AnalysisError, match=r"these threads cannot do its part: there is no archive at '/now"
    ):
        analyze.run(path, ["stiffness"], jobs=2)
    threads.code = "older"
    with pytest.raises(AnalysisError, match="it has another version of tracer"):
        analyze.run(path, ["stiffness"], jobs=2)


def test_a_lost_scheduler_and_a_worker_that_dasks_gave_up_on_are_told():
    from distributed.scheduler import KilledWorker

    lost, killed = Future(), Future()
    lost.cancel()
    lost.set_running_or_notify_cancel()
    killed.set_exception(KilledWorker("task", "worker", 3))
    with pytest.raises(AnalysisError, match="this process was lost; run again"):
        complete(Workers().finish(Job(b"", lost)))
    assert complete(Workers().finish(Job(b"", killed))) is None


def test_what_cannot_be_reached_or_imported_is_one_sentence(path, monkeypatch):
    monkeypatch.setattr(distribute, "TIMEOUT", 0.2)
    with pytest.raises(AnalysisError, match=r"no Dask scheduler answers at '127\.0\.0\.1:1'.*dask scheduler"):
        analyze.run(path, ["stiffness"], scheduler="127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    outcome = CliRunner().invoke(cli.main, ["analyze", str(path), "--scheduler", "127.0.0.1:1"])
    assert outcome.exit_code == 1 and "pip install tracer-nn[dask]" in outcome.stderr


def test_few_tasks_are_under_way_at_a_time_and_results_keep_their_order(tmp_path, threads):
    write_archive(tmp_path / "run.zarr", steps=range(40))
    begun, finished, most = [], [], []
    threads.begin = lambda task: begun.append(task) or Workers.begin(threads, task)
    original = threads.finish

    def finish(job):
        most.append(len(begun) - len(finished))
        finished.append(job)
        return original(job)

    threads.finish = finish
    found = analyze.run(tmp_path / "run.zarr", ["tracin"], jobs=2)
    assert len(begun) == 40 and max(most) <= threads.ahead + 1 == distribute.AHEAD * 2 + 1
    assert same(analyze.run(tmp_path / "run.zarr", ["tracin"]), found)


def test_routines_go_on_by_turns():
    futures, log, ended = [Future() for _ in range(4)], [], []

    def routine(k):
        log.append(f"begin {k}")
        if k == 3:
            futures[0].set_result(None)
        yield futures[k]
        log.append(f"end {k}")

    for done in futures[1:]:
        done.set_result(None)
    by_turns(map(routine, range(4)), 2, lambda: ended.append(1))
    assert log.index("begin 3") < log.index("end 0") and sorted(log) == sorted(set(log))
    assert len(log) == 8 and len(ended) == 4


def test_the_last_try_is_alone():
    pool = Processes(2)
    future = pool._submit(pickle.dumps(os.getpid), TRIES)
    assert future.done() and future.result() != os.getpid() and pool._pool is None
