"""Two processes of one run: the same steps as one, one folder, and a clear end when one dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fork_server import Forks
from torch import nn

from puffer_policies.assembly.header import read_header
from puffer_policies.config.load import load_config
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError
from puffer_policies.runs import run
from puffer_policies.spaces import spaces_of
from puffer_policies.train.batch import Segments
from puffer_policies.train.carry import Carry
from puffer_policies.train.distributed import ALONE, World
from puffer_policies.train.plan import make_plan
from puffer_policies.train.ppo import PPO, Minibatch
from puffer_policies.wrappers.value_heads import PopArtWrapper
from puffer_policies.zoo.mlp import Default

pytestmark = pytest.mark.trainer

ROWS = 64


def torchrun(forks: Forks, script: Path) -> subprocess.CompletedProcess[str]:
    """Run a script under torchrun; it and the two processes that it starts are forks."""
    python, program = script.with_name("python"), script.with_name("torchrun.py")
    forks.write_python(python, python=Path(sys.executable))
    program.write_text("from torch.distributed.run import main; main()")
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PUFFER_POLICIES_PLUGINS": ""}
    return forks.run(
        program,
        *("--nproc-per-node", "2", str(script)),
        cwd=script.parent,
        env={**common, "PYTHON_EXEC": str(python)},
    )


def run_twice(
    forks: Forks, script: Path, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], ...]:
    """Run a script in two processes with the variables that torchrun sets, without its imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common = {**os.environ, **group, "OMP_NUM_THREADS": "1", "PUFFER_POLICIES_PLUGINS": ""}

    def run_one(rank: str) -> subprocess.CompletedProcess[str]:
        env = {**common, "RANK": rank, "LOCAL_RANK": rank}
        return forks.run(script, *arguments, cwd=script.parent, env=env)

    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(run_one, "01"))


def batch_of(rows: slice) -> Segments:
    """A part of one and the same batch of single steps."""
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(ROWS, 1, 4, generator=generator)
    numbers = torch.randn(5, ROWS, 1, generator=generator)
    numbers[0], numbers[4] = -0.7, 1.0  # log-probabilities, weights
    return Segments(
        observations=observations[rows],
        starts=torch.zeros(ROWS, 1, dtype=torch.bool)[rows],
        extras={},
        states={},
        actions=torch.randint(0, 2, (ROWS, 1), generator=generator)[rows],
        numbers=numbers[:, rows],
    )


def policy_after_a_step(rows: slice, world: World) -> nn.Module:
    """A policy after a gradient step on a part of the batch, with statistics of its returns."""
    torch.manual_seed(1)
    env = spaces_of("CartPole-v1")
    policy, batch = PopArtWrapper(env, Default(env, hidden_size=8)), batch_of(rows)
    policy.policy.critic.update_statistics(batch.transitions.returns)
    config, count = TrainConfig(norm_adv=False, bptt_horizon=1), len(range(ROWS)[rows])
    cpu = torch.device("cpu")
    ppo = PPO(
        config,
        policy,
        Carry(policy, count, device=cpu, use_rnn=None),
        make_plan(config, count, recurrent=False),
        generator=torch.Generator(),
        world=world,
    )
    ppo.step(batch, Minibatch(torch.arange(count), None), 0.2)
    return policy


PART = """
import pathlib, sys, torch
sys.path.insert(0, {tests!r})
from test_processes import ROWS, policy_after_a_step
from puffer_policies.train.distributed import joined

with joined("cpu") as world:
    half = ROWS // world.size
    policy = policy_after_a_step(slice(world.rank * half, (world.rank + 1) * half), world)
    torch.save(policy.state_dict(), f"after-{{world.rank}}.pt")

tasks = pathlib.Path("/proc/self/task").glob("*/comm")
names = [task.read_text() for task in tasks]
assert not [name for name in names if "gloo" in name], names
"""


def test_two_halves_make_the_step_of_the_whole_and_no_thread_outlives_the_group(tmp_path, forks):
    script = tmp_path / "part.py"
    script.write_text(PART.format(tests=str(Path(__file__).parent)))
    process = torchrun(forks, script)
    assert process.returncode == 0, process.stderr
    whole = policy_after_a_step(slice(None), ALONE).state_dict()
    first, second = (torch.load(tmp_path / f"after-{rank}.pt") for rank in (0, 1))
    for name, each in whole.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], each, atol=1e-6, rtol=1e-5)


SIZES = ("--vec.num-envs", "8", "--train.bptt-horizon", "32", "--eval.episodes", "4")
TRAIN = "import sys; from puffer_policies.cli.main import main; sys.exit(main())"


# The numbers of envs on a device are added up there, those of envs on the host in NumPy.
@pytest.mark.parametrize("env", ["CartPole-v1", "puffer_policies/TorchCartPole-v0"])
def test_two_processes_train_one_run(env, tmp_path, forks):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    flags = (*SIZES, "--train.total-timesteps", "1024", "--json")
    first, second = run_twice(forks, script, "train", env, *flags)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert not second.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    lines = [json.loads(each) for each in first.stdout.splitlines()]
    assert "2 processes with 4 of 8 agents each: updates of 256 steps" in lines[0]["note"]
    logged = [json.loads(each) for each in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [each["agent_steps"] for each in logged[:-1]] == [256, 512, 768, 1024]
    assert logged[-2]["environment/episodes"] > logged[0]["environment/episodes"] > 0
    assert logged[-1]["evaluation"]["episodes"] == 4
    assert lines[-1]["steps"] == 1024
    assert json.loads((folder / "config.json").read_text())["vec"]["num_envs"] == 8
    more = ("--resume", str(folder), "--train.total-timesteps", "1536", "--quiet")
    for process in run_twice(forks, script, "train", *more):
        assert process.returncode == 0, process.stderr
    assert read_header(folder / "latest.safetensors").training["global_step"] == 1536


def test_envs_that_processes_cannot_share_are_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "joined", lambda _: nullcontext(World(rank=0, size=2)))
    flags = ["--vec.num-envs", "9", "--train.data-dir", str(tmp_path / "runs")]
    with pytest.raises(ConfigError, match=r"vec\.num_envs 9 / 2 processes = 4\.5 each"):
        run.train_from_config(load_config("CartPole-v1", flags), display="quiet")
    assert not (tmp_path / "runs").exists()


DYING = """
import os, sys
import gymnasium
from puffer_policies.cli.main import main


class Dying(gymnasium.Wrapper):
    steps = 0

    def step(self, action):
        type(self).steps += 1
        if os.environ["RANK"] == "1" and type(self).steps > 800:
            os._exit(9)
        return super().step(action)


gymnasium.register("Dying-v0", lambda: Dying(gymnasium.make("CartPole-v1")))
sys.exit(main(["train", "Dying-v0", *sys.argv[1:]]))
"""


def test_a_process_that_dies_ends_the_run_with_a_message_and_a_checkpoint(tmp_path, forks):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    left, gone = run_twice(forks, script, *SIZES, "--train.checkpoint-interval", "1", "--quiet")
    assert gone.returncode == 9
    assert left.returncode not in (0, 9)
    assert "Another process of this run is gone" in left.stderr
    assert "go on with --resume" in left.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert read_header(folder / "latest.safetensors").training["epoch"] >= 1
