"""Runs all parts, each in a process with a limit, and writes results.json and results.md.

``python -m gpu --device cuda --out gpu-results``, as `make gpu` does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMITS = {
    "machine": 120,  # the first to import torch, from a disk that may be slow
    "policies": 60,
    "memories": 60,
    "plug-in memories": 60,
    "resume": 75,
    "checkpoints": 45,
    "bfloat16": 45,
    "channels-last": 45,
    "compile": 120,
    "graphs": 75,
    "host waits": 45,
    "act": 60,
    "train step": 75,
    "ppo": 75,
}
"""Seconds that each part may take, in the order in which they run."""

WHOLE = 470
"""Seconds that all may take together: `make gpu` promises at most 8 minutes."""

SHORTEST = 5.0
"""Seconds below which a part is not started any more."""

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


def main() -> int:
    """Run all parts, or in their own process one of them."""
    options = _options()
    if options.part:
        try:
            report = run_part(options)
        except ImportError as error:
            report = {"status": FAILED, "reason": f"{type(error).__name__}: {error}"}
        Path(options.result).write_text(json.dumps(report))
        return 0
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in LIMITS if not options.only or name in options.only.split(",")]
    parts, start = [], time.monotonic()
    with Path(out, "log.txt").open("w") as log:
        for name in names:
            left = WHOLE - (time.monotonic() - start)
            part = run_apart(name, options, out, log, limit=min(LIMITS[name], left))
            parts.append(part)
            reason = f": {part['reason']}" if part["reason"] else ""
            print(f"{part['status']:8} {name} ({part['seconds']:.0f} s){reason}", flush=True)
            write_report(out, options, parts)
    print(f"The results are in {out / 'results.md'} and {out / 'results.json'}.")
    return 1 if any(part["status"] == FAILED for part in parts) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu (default cuda)")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--out", default="gpu-results", help="folder of the results")
    parser.add_argument("--only", default="", help="parts, separated by commas")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--result", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = ",".join(each.strip() for each in options.only.split(","))
    unknown = [name for name in filter(None, options.only.split(",")) if name not in LIMITS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; parts are {', '.join(LIMITS)}")
    return options


def run_apart(
    name: str, options: argparse.Namespace, out: Path, log: Any, *, limit: float
) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it reports or how it ended."""
    part = {"name": name, "status": FAILED, "seconds": 0.0, "reason": "", "figures": {}}
    if limit < SHORTEST:
        return {**part, "reason": f"no time is left of {WHOLE} s"}
    result = out / "part.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gpu", "--part", name, "--result", str(result)]
    command += ["--device", options.device, *(["--small"] if options.small else [])]
    log.write(f"== {name}\n")
    log.flush()
    start = time.monotonic()
    try:
        code = subprocess.run(
            command, stdout=log, stderr=log, timeout=limit, check=False, env=_environment()
        ).returncode
        reason = f"the process ended with {code}; see log.txt"
    except subprocess.TimeoutExpired:
        reason = f"it took longer than {limit:.0f} s"
    if result.exists():
        part.update(json.loads(result.read_text()))
        result.unlink()
    else:
        part["reason"] = reason
    return {**part, "seconds": time.monotonic() - start}


def _environment() -> dict[str, str]:
    here = Path(__file__).parents[1]
    paths = [str(here.parent), str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    # What is tried here stands in this folder, whatever plug-ins are installed.
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PUFFER_POLICIES_PLUGINS": "",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def run_part(options: argparse.Namespace) -> dict[str, Any]:
    """Run a part in this process, and return its status, reason and figures."""
    import traceback

    import torch

    from gpu.checks import CHECKS, Skipped
    from gpu.subjects import Settings
    from gpu.timings import TIMINGS

    torch.set_num_threads(1)
    parts = {"machine": machine, **CHECKS, **TIMINGS}
    try:
        # Fails here, and in words, where there is no such device. Tensors know its index.
        device = torch.zeros(1, device=options.device).device
        figures = parts[options.part](Settings(device, options.small))
    except Skipped as reason:
        return {"status": SKIPPED, "reason": str(reason)}
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        return {"status": FAILED, "reason": f"{type(error).__name__}: {text}"}
    return {"status": PASSED, "figures": figures}


def machine(settings: Any) -> dict[str, str]:
    """Return what the device is, and the versions of what runs on it."""
    import platform

    import gymnasium
    import numpy as np
    import torch

    found = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
    }
    if settings.is_cuda:
        properties = torch.cuda.get_device_properties(settings.device)
        found |= {
            "device": properties.name,
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "capability": f"{properties.major}.{properties.minor}",
            "CUDA of torch": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
            "driver": _driver(),
        }
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown, as nvidia-smi does not answer"
    return output.stdout.split("\n")[0].strip()


def write_report(out: Path, options: argparse.Namespace, parts: list[dict[str, Any]]) -> None:
    """Write what there is by now, so that an end from outside leaves it."""
    facts = next((part["figures"] for part in parts if part["name"] == "machine"), {})
    report = {
        "device": options.device,
        "small": options.small,
        "date": time.strftime("%Y-%m-%d"),
        "machine": facts,
        "parts": parts,
    }
    (out / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "results.md").write_text(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Return a report as Markdown."""
    title = report["machine"].get("device", report["device"])
    lines = [f"# {title}, {report['date']}", ""]
    if report["small"]:
        lines += ["Small sizes, which try the script: the times mean nothing.", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += ["", "| part | result | seconds | |", "|---|---|---|---|"]
    for part in report["parts"]:
        reason = part["reason"].replace("|", "\\|")
        lines.append(f"| {part['name']} | {part['status']} | {part['seconds']:.0f} | {reason} |")
    units = {"act": "ms", "train step": "ms", "ppo": "steps/s"}
    for part in report["parts"]:
        unit = units.get(part["name"], "largest difference")
        if part["name"] == "machine" or not part["figures"]:
            continue
        lines += ["", f"| {part['name']} | {unit} |", "|---|---|"]
        lines += [f"| {name} | {_figure(each, unit)} |" for name, each in part["figures"].items()]
    return "\n".join(lines) + "\n"


def _figure(value: float, unit: str) -> str:
    if unit == "steps/s":
        return f"{value:,.0f}"
    return f"{value:.3f}" if unit == "ms" else f"{value:.1e}"


if __name__ == "__main__":
    sys.exit(main())
