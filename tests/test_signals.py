"""A run that ends by signals says so by its exit code, is saved, and leaves no worker behind."""

from __future__ import annotations

import json
import os
import sys

import pytest

pytestmark = pytest.mark.trainer

# The runs are forks, each a process group of its own.
RUNS = """
import json, os, signal, sys, time, warnings
from pathlib import Path

import gymnasium
import numpy as np
from puffer_policies.cli.main import main
from puffer_policies.runs import interrupts

warnings.simplefilter("ignore")  # of forks beside threads
interrupts.GRACE, interrupts.PATIENCE = 0.1, 0.5

class Toy(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder):
        self.folder, self.steps = Path(folder), 0
        (self.folder / str(os.getpid())).touch()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 20:
            (self.folder / "ready").touch()
            time.sleep(600)
        return np.zeros(2, np.float32), 1.0, self.steps % 7 == 0, False, {}


gymnasium.register("Toy-v0", Toy)
root = Path(sys.argv[1])


def run_until_hanging(name):
    folder = root / name
    folder.mkdir()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = open(folder / "stderr", "w")
        flags = ["--env.folder", str(folder), *sys.argv[2:]]
        code = main(["train", "Toy-v0", "--train.data-dir", str(folder / "runs"), *flags])
        sys.stderr.flush()
        os._exit(code)
    while not (folder / "ready").exists():
        time.sleep(0.02)
    return child, folder


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def report(name, child, folder):
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    pids = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(is_alive, pids)):
        time.sleep(0.05)
    print(json.dumps([name, code, sum(map(is_alive, pids))]), flush=True)


child, folder = run_until_hanging("interrupted twice")
os.kill(child, signal.SIGINT)
time.sleep(0.15)
os.kill(child, signal.SIGINT)
report("interrupted twice", child, folder)

child, folder = run_until_hanging("all terminated")
os.killpg(child, signal.SIGTERM)
report("all terminated", child, folder)

child, folder = run_until_hanging("killed")
os.kill(child, signal.SIGKILL)
report("killed", child, folder)
"""

FLAGS = [
    *("--vec.vectorization", "async", "--vec.num-envs", "2", "--train.bptt-horizon", "8"),
    *("--train.total-timesteps", "160", "--train.minibatch-size", "auto", "--quiet"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc")
def test_a_run_ends_by_signals_with_their_code_saved_and_without_orphans(tmp_path, forks):
    program = tmp_path / "runs.py"
    program.write_text(RUNS)
    process = forks.run(program, str(tmp_path), *FLAGS, cwd=tmp_path, env=dict(os.environ))
    assert process.returncode == 0, process.stderr
    reports = {name: rest for name, *rest in map(json.loads, process.stdout.splitlines())}
    assert reports == {
        "interrupted twice": [130, 0],
        "all terminated": [143, 0],
        "killed": [-9, 0],
    }
    for name in ("interrupted twice", "all terminated"):
        (folder,) = (tmp_path / name / "runs").iterdir()
        assert (folder / "trainer.safetensors").exists()
        assert "interrupted" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert "of 2 was in step 22." in (tmp_path / "interrupted twice" / "stderr").read_text()
