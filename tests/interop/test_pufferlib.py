"""Our policies in PufferLib 3.0 itself, which has an environment of its own: `make test-pufferlib`.

`tests/test_pufferlib_trainer.py` runs there as well, against the real trainer.
"""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from pufferlib_library import IS_REAL, Library
from test_docs import ROOT, script

from puffer_policies.checks import check_policy
from puffer_policies.interop.pufferlib import EpisodeStartWrapper, use_registry

if not IS_REAL:
    pytest.skip("PufferLib 3.0 is not installed", allow_module_level=True)

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("default")]


@pytest.fixture
def library(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # PufferLib leaves a link in the working folder
    library = Library(monkeypatch)
    use_registry()
    return library


class Cue(gymnasium.Env):
    """A cue that is shown at the start, and asked for six steps later."""

    observation_space, action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(2)
    render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(2)), 0
        return np.eye(3, dtype=np.float32)[self.cue], {}

    def step(self, action):
        self.time += 1
        over = self.time == 7
        observation = np.array([0, 0, self.time == 6], np.float32)
        return observation, float(over and action == self.cue), over, False, {}


class Returns(gymnasium.Wrapper):
    """Notes the return of every episode in a list."""

    def __init__(self, env, returns):
        super().__init__(env)
        self.returns, self.sum = returns, 0.0

    def reset(self, **options):
        self.sum = 0.0
        return self.env.reset(**options)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.sum += reward
        if terminated or truncated:
            self.returns.append(self.sum)
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("env", "maker", "policy", "steps", "least", "settings"),
    [
        (
            "CartPole-v1",
            lambda: gymnasium.make("CartPole-v1"),
            "Default(hidden_size=64)",
            200_000,
            400,
            {"update_epochs": 8, "minibatch_size": 128, "learning_rate": 1e-3},
        ),
        (
            "a cue of six steps before",
            lambda: EpisodeStartWrapper(Cue()),
            "GRUWrapper(Default(hidden_size=32))",
            60_000,
            0.95,
            {"update_epochs": 4, "minibatch_size": 128, "learning_rate": 3e-3},
        ),
    ],
    ids=["cartpole", "cue"],
)
@pytest.mark.exhaustive
def test_an_env_is_solved(library, note_return, env, maker, policy, steps, least, settings):
    torch.manual_seed(0)
    returns = []
    vecenv = library.serial(lambda _: Returns(maker(), returns), num_envs=16)
    given = {"bptt_horizon": 32, "total_timesteps": steps, "gamma": 0.98, "ent_coef": 0.0}
    args = library.args(policy, **given, vf_clip_coef=1e9, **settings)
    trainer = library.trainer(args, vecenv, library.pufferl.load_policy(args, vecenv))
    while trainer.global_step < steps:
        trainer.evaluate()
        trainer.train()
    returns.clear()
    for _ in range(20):
        trainer.evaluate()
    mean = np.mean(returns)
    note_return(mean, least=least, trainer="PufferLib 3.0", policy=policy, env=env, steps=steps)


def test_its_command_line_knows_the_registry(tmp_path):
    names = ["--policy-name", "MinGRUWrapper(Default(hidden_size=16))", "--rnn-name", "None"]
    sizes = ["--vec.num-envs", "2", "--train.batch-size", "16", "--train.minibatch-size", "16"]
    steps = ["--train.bptt-horizon", "16", "--train.total-timesteps", "64"]
    kinds = ["--vec.backend", "Serial", "--train.optimizer", "adam", "--train.device", "cpu"]
    module = [sys.executable, "-m", "puffer_policies.interop.pufferlib", "train", "puffer_spaces"]
    subprocess.run([*module, *names, *sizes, *steps, *kinds], cwd=tmp_path, check=True, timeout=90)
    [model] = tmp_path.glob("experiments/*.pt")
    assert any(".core." in key for key in torch.load(model))


def test_its_page_runs(tmp_path):
    program = tmp_path / "page.py"
    program.write_text(script(ROOT / "docs/interop/pufferlib.md"))
    subprocess.run([sys.executable, program], cwd=tmp_path, check=True, timeout=90)


@pytest.mark.parametrize(
    ("name", "broken"),
    [("Default", set()), ("LSTMWrapper", {"B2", "R3", "R6", "R8", "N4"})],
)
def test_its_own_policies_are_judged_as_the_page_says(library, name, broken):
    report = check_policy(f"pufferlib.models:{name}", "CartPole-v1", isolate=False)
    assert report.failed() == broken
