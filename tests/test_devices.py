"""The policies and the trainer on a device, and the script that `make gpu` runs.

On the CPU this tries the checks themselves. ``DEVICE=cuda pytest tests/test_devices.py`` runs them
on a GPU; `make gpu` does the same without pytest, and times everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu import __main__ as script  # noqa: E402
from gpu.checks import CHECKS, Skipped  # noqa: E402
from gpu.subjects import MEMORY_POLICIES, POLICIES, Settings, build, inputs  # noqa: E402
from gpu.timings import TIMINGS  # noqa: E402

from puffer_policies.nn.cores.base import bounded_starts  # noqa: E402
from puffer_policies.nn.distributions import distribution  # noqa: E402

DEVICE = torch.device(os.environ.get("DEVICE", "cpu"))
ELSEWHERE = {"compile", "resume"} if DEVICE.type == "cpu" else set()
"""What test_compile and test_resume have in more detail on a CPU."""


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - ELSEWHERE))
def test_a_device_gives_what_the_cpu_gives(name):
    try:
        CHECKS[name](Settings(DEVICE, small=DEVICE.type == "cpu"))
    except Skipped as reason:
        pytest.skip(str(reason))


class OneDevice(TorchDispatchMode):
    """Fails where an operator mixes tensors of the CPU with those of a device, or makes one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        # Single numbers may come from the host: a kernel takes them as its arguments.
        tensors = [each for each in tree_leaves((args, kwargs, results)) if is_array(each)]
        assert not any(each.is_cpu for each in tensors), f"{func} of a tensor on the CPU"
        return results


def is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


@pytest.mark.parametrize("name", [*POLICIES, *MEMORY_POLICIES])
def test_no_policy_makes_tensors_on_the_cpu(name):
    # Tensors without numbers, whose device is not the CPU, find what only a GPU would.
    env = {**POLICIES, **MEMORY_POLICIES}[name]
    policy = build(name, env).to("meta")
    batch = (2, 5) if hasattr(policy, "initial_state") else (6,)
    step, sequence = (
        inputs(policy, env, *each, device=torch.device("meta")) for each in ((3,), batch)
    )

    def run() -> None:
        with torch.no_grad():
            logits, _ = policy.forward_eval(step[0], dict(step[1]))
            distribution(logits).log_prob(distribution(logits).sample())
        with bounded_starts(policy, 2):  # counting them would read a number
            logits, values = policy(sequence[0], dict(sequence[1]))
        choice = distribution(logits)
        loss = choice.log_prob(choice.mode().detach()).mean() + choice.entropy().mean()
        (loss + values.square().mean()).backward()

    run()  # constants may be copied to the device once
    with OneDevice():
        run()


def test_times_are_measured(monkeypatch):
    figures = TIMINGS["act"](Settings(DEVICE, small=True))
    assert len(figures) >= 4
    assert min(figures.values()) > 0


def test_every_part_has_a_limit():
    assert script.LIMITS.keys() == {"machine", *CHECKS, *TIMINGS}


def options(**changed):
    defaults = {"device": "cpu", "small": True, "out": "", "only": "", "part": "", "result": ""}
    return SimpleNamespace(**{**defaults, **changed})


def report_of(tmp_path, monkeypatch, limits, **changed):
    monkeypatch.setattr(script, "LIMITS", limits)
    monkeypatch.setattr(script, "_options", lambda: options(out=str(tmp_path), **changed))
    code = script.main()
    return code, json.loads((tmp_path / "results.json").read_text())


def test_a_part_that_hangs_or_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    real = subprocess.run

    def run(command, **kwargs):
        name = command[command.index("--part") + 1]
        programs = {
            "hangs": "import time; time.sleep(60)",
            "crashes": "import os; os.abort()",
            "works": "import json, sys; json.dump({'status': 'passed', 'figures': {'a': 1.0}}, "
            "open(sys.argv[1], 'w'))",
        }
        result = command[command.index("--result") + 1]
        return real([sys.executable, "-c", programs[name], result], **kwargs)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(script, "LIMITS", {})
    limits = {"hangs": 0.5, "crashes": 30, "works": 30}
    monkeypatch.setattr(script, "SHORTEST", 0.1)
    code, report = report_of(tmp_path, monkeypatch, limits)
    assert code == 1
    assert [part["status"] for part in report["parts"]] == ["failed", "failed", "passed"]
    reasons = [part["reason"] for part in report["parts"]]
    assert "longer than" in reasons[0]
    assert "ended with -6" in reasons[1]
    text = (tmp_path / "results.md").read_text()
    assert "| works | passed |" in text
    assert "| a | 1.0e+00 |" in text
    capsys.readouterr()


def test_the_script_runs_from_its_command_line(tmp_path):
    command = [sys.executable, "-m", "gpu", "--device", "cpu", "--small", "--only", "machine,cuda"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 2, done.stdout
    assert "there is no part 'cuda'" in done.stderr
    done = subprocess.run(
        [*command[:-1], "machine", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["machine"]["torch"] == torch.__version__


def test_a_device_that_is_not_there_is_told_in_words(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    part = script.run_part(options(device="cuda", part="policies"))
    assert part["status"] == "failed"
    assert "CUDA" in part["reason"]
