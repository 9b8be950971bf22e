"""Everything that needs a GPU, most valuable first: `python -m benchmarks.device --out DIR [--parts a,b]`.

Six parts, each a process of its own with its share of the time, so that none that hangs or dies takes the others with
it: tests, neutrality, overhead, snapshots, replay, gallery. What a part does not use the next may. Each writes
`DIR/<part>.json` again and again while it runs; a part whose file says that it is done is not run again. Small sizes
on a processor: `--device cpu --small`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.device import gallery, overhead, replays, snapshots, suite, summary
from benchmarks.device.results import DONE, FAILED, LATE, RUNNING, Results, read, replace

SECONDS = {"tests": 110, "neutrality": 110, "overhead": 120, "snapshots": 25, "replay": 60, "gallery": 100}
TOTAL = 520.0
LEAST = 5.0  # seconds in which a part is worth beginning
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ROOT = Path(__file__).parents[2]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for one JSON file a part and log.txt")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, or cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--parts", default=",".join(SECONDS), help="some of: " + ",".join(SECONDS))
    parser.add_argument("--seconds", type=float, default=TOTAL, help="for all parts together")
    parser.add_argument("--data", type=Path, help="folder of mnist.npz and cifar10.npz, for the gallery")
    parser.add_argument(
        "--jobs", type=int, default=12, help="processes that share the device in tests and gallery"
    )
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    unknown = set(chosen.parts.split(",")) - SECONDS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; known: {', '.join(SECONDS)}")
    return chosen


def main() -> int:
    """Run the parts; 0 if each came to its end without an error."""
    chosen = options()
    if chosen.deadline is not None:
        return one_part(chosen)
    chosen.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part at work is ended too
    end, parts = time.time() + chosen.seconds, chosen.parts.split(",")
    for place, part in enumerate(parts):
        if read(chosen.out / f"{part}.json").get("state") == DONE:
            print(f"== {part}: done before", flush=True)
            continue
        spare = end - time.time() - sum(SECONDS[later] for later in parts[place + 1 :])
        in_child(part, chosen, max(min(SECONDS[part], end - time.time()), spare))
    print(summary.text({part: read(chosen.out / f"{part}.json") for part in parts}), flush=True)
    return int(any(read(chosen.out / f"{part}.json").get("state") != DONE for part in parts))


def in_child(part: str, chosen: argparse.Namespace, seconds: float) -> None:
    """One part in a process of its own, which is ended if it does not end."""
    path, log = chosen.out / f"{part}.json", chosen.out / "log.txt"
    began = time.time()
    print(f"== {part}: at most {seconds:.0f} s", flush=True)
    if seconds < LEAST:
        replace(path, {"part": part, "state": LATE, "results": {}, "seconds": 0})
        return
    command = [sys.executable, "-m", "benchmarks.device", "--out", str(chosen.out), "--device", chosen.device]
    command += ["--parts", part, "--jobs", str(chosen.jobs), "--deadline", str(began + seconds - 4)]
    command += ["--small"] * chosen.small + (["--data", str(chosen.data.resolve())] if chosen.data else [])
    environment = {
        **os.environ,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    if chosen.device == "cpu" or part in (
        "tests",
        "neutrality",
    ):  # as the suite runs, many processes on few cores
        environment |= dict.fromkeys(THREADS, "1")
    with open(log, "a", encoding="utf-8") as written:
        print(f"\n==== {part}", file=written, flush=True)
        child = subprocess.Popen(
            command, stdout=written, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, process_group=0
        )
        try:
            code, state = child.wait(timeout=seconds), FAILED
        except subprocess.TimeoutExpired:
            code, state = None, LATE
        finally:
            end_group(child)
    found = read(path)
    if not found or found["state"] == RUNNING or code not in (0, None):
        tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
        found = {"part": part, "results": {}, **found, "seconds": round(time.time() - began, 1)}
        found |= {"state": state, "exit_code": code, "tail": tail}
        replace(path, found)
    print(f"   {part}: {found['state']} after {time.time() - began:.0f} s", flush=True)


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def one_part(chosen: argparse.Namespace) -> int:
    """Run the one part here."""
    part, cpu = chosen.parts, chosen.device == "cpu"
    results = Results(chosen.out / f"{part}.json", chosen.device, chosen.deadline)
    tests = partial(suite.run, results, jobs=1 if chosen.small else chosen.jobs)
    if cpu:  # the same tests are not for a processor: a few of the recorder's stand in
        tests = partial(tests, file="tests/tracer/recorder/test_neutral_zoo.py", marker="not slow")
    with results.trying(part):
        match part:
            case "tests":
                tests(chosen="MLP" if cpu else f"not {suite.NEUTRALITY}")
            case "neutrality":
                tests(chosen="CNN" if cpu else suite.NEUTRALITY)
            case "overhead":
                overhead.run(results, chosen.device, chosen.small)
            case "snapshots":
                snapshots.run(results, chosen.device, 20 if chosen.small else 1000)
            case "replay":
                replays.run(results, chosen.device, chosen.small)
            case "gallery":
                scale, names = ("quick", list(gallery.PLANE[:1])) if chosen.small else ("full", None)
                gallery.run(results, chosen.device, scale, chosen.data, chosen.jobs, names)
    results.finish()
    return int(results.content["state"] != DONE)


if __name__ == "__main__":
    sys.exit(main())
