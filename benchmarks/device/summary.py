"""What came out, in a few lines."""

from typing import Any

FAILURES = 25  # at most so many lines of them


def text(parts: dict[str, dict[str, Any]]) -> str:
    """One block of lines for every part, then what failed."""
    shown = next((part["machine"] for part in parts.values() if "machine" in part), {})
    versions = ", ".join(f"{name} {number}" for name, number in shown.get("versions", {}).items())
    lines = ["", "#### summary"]
    lines.append(f"{shown.get('card')}, driver {shown.get('driver')}, CUDA {shown.get('cuda')}, {versions}")
    failures: list[str] = []
    for name, part in parts.items():
        found = part.get("results", {})
        lines.append(f"== {name}: {part.get('state', 'not run')}, {part.get('seconds', 0):.0f} s")
        lines += LINES.get(name, lambda found: [])(found)
        failures += [f"{name}: {one['where']}: {one['error'][:250]}" for one in found.get("errors", [])]
        failures += [
            f"{name}: {one['test']}: {_cause(one['error'])}"
            for one in found.get("tests", [])
            if one["outcome"] == "failed"
        ]
        if "tail" in part:
            failures.append(f"{name}: ended with exit code {part.get('exit_code')}; " + part["tail"][-300:])
    if failures:
        lines.append(f"#### {len(failures)} failures")
        lines += [line.replace("\n", " ")[:400] for line in failures[:FAILURES]]
    return "\n".join(lines)


def _tests(found: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{found.get(name, 0)} {name}" for name in ("passed", "failed", "skipped"))
    said = [
        f"  warning, {count} times: {text[:120]}"
        for text, count in list(found.get("warnings", {}).items())[:4]
    ]
    return [f"  {counts}", *said]


def _overhead(found: dict[str, Any]) -> list[str]:
    lines = []
    for one in found.get("right", []):
        lines.append(
            f"  {one['workload']}: unchanged {one['unchanged']}, bit for bit {one['bit_for_bit']} "
            f"({one['same_device']['replayed']} snapshots), CPU within 1e-5 {one['within_1e-5_of_cpu']} "
            f"(rounding {max(one['cpu']['rounding'].values(), default=0):.2g})"
        )
        lines += [
            f"    {finding[:150]}"
            for finding in [*one["same_device"]["findings"], *one["cpu"]["findings"]][:4]
        ]
    for one in found.get("compared", []):
        lines.append(
            f"  {one['workload']}: wall {one['ratio']:.3f} (goal {one['goal']}), kernels {one['kernel_ratio']:.3f}, "
            f"step {1000 * min(one['bare_seconds']) / one['updates']:.2f} ms, "
            f"snapshot {1000 * one['snapshot_seconds']:.0f} ms"
        )
        lines.append(
            f"    between snapshots: waits {one['recorded_between']['waits']} (bare {one['bare_between']['waits']}), "
            f"PyTorch's {one['recorded_synchronisations']} (bare {one['bare_synchronisations']}); with a snapshot: "
            f"{one['recorded_profile']['waits']} (bare {one['bare_profile']['waits']})"
        )
    return lines


def _snapshots(found: dict[str, Any]) -> list[str]:
    return [f"  {found.get('right', 0)} of {found.get('snapshots', 0)} hold the true weights"]


def _replay(found: dict[str, Any]) -> list[str]:
    return [
        f"  {one['metric']}: device {one['device_seconds']:.2f} s, CPU {one['cpu_seconds']:.2f} s, "
        f"difference {max(one['differences'].values(), default=0):.2g}"
        + ("" if one["nan_alike"] else ", NaN differ")
        for one in found.get("metrics", [])
    ]


def _gallery(found: dict[str, Any]) -> list[str]:
    return [
        f"  {one['script']}: {one['state']}, {one['seconds']:.0f} s"
        + (f", {one['numbers']['verdict']}" if "numbers" in one else "")
        for one in found.get("scripts", [])
        if one["state"] != "left out"
    ]


LINES = {
    "tests": _tests,
    "neutrality": _tests,
    "overhead": _overhead,
    "snapshots": _snapshots,
    "replay": _replay,
    "gallery": _gallery,
}


def _cause(error: str) -> str:
    lines = [line[2:].strip() for line in error.splitlines() if line.startswith("E ")]
    return (lines[0] if lines else error.strip().rpartition("\n")[2])[:250]
