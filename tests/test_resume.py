"""A run that was stopped and goes on equals one that never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from puffer_policies.assembly.header import read_header
from puffer_policies.assembly.tensorfile import read_tensors, write_tensors
from puffer_policies.config.config import Config
from puffer_policies.config.load import load_config, load_run_config
from puffer_policies.errors import CheckpointError, ConfigError
from puffer_policies.runs.evaluate import evaluate_checkpoint
from puffer_policies.runs.metrics import MetricsLog
from puffer_policies.runs.run import train_from_config
from puffer_policies.runs.snapshot_file import read_snapshot
from puffer_policies.train.trainer import Trainer

pytestmark = pytest.mark.trainer

SMALL = [
    *("--train.total-timesteps", "640", "--train.bptt-horizon", "32", "--vec.num-envs", "4"),
    *("--train.minibatch-size", "auto", "--train.batch-size", "auto", "--eval.episodes", "2"),
    *("--eval.max-steps", "50", "--train.update-epochs", "2"),
]
LSTM = ["--rnn-name", "LSTMWrapper", "--policy.hidden-size", "16"]
SYNC = ["--vec.vectorization", "sync"]
STACK = "FrameStackWrapper(NormalizeObservationWrapper(Default(hidden_size=16)))"
RUNS = {
    "CartPole-v1": ["--policy-name", STACK],
    "CartPole-v1 sync lstm": [*SYNC, *LSTM, "--train.no-scale-rewards"],
    "Pendulum-v1": [
        *("--env.max_episode_steps", "21", "--policy-name", "Continuous"),
        *("--train.target-kl", "0.001"),
    ],
    "puffer_policies/Breakout-v0 muon": [
        *("--train.optimizer", "muon", "--policy-name", "PopArtWrapper(Default)"),
    ],
    "puffer_policies/RepeatPrevious-v0 lstm": LSTM,
    "puffer_policies/TorchRepeatPrevious-v0 lstm": LSTM,
    "puffer_policies/TorchPendulum-v0": [
        *("--env.max_episode_steps", "21", "--policy-name", "Continuous"),
    ],
    "puffer_policies/TorchCartPole-v0 lstm": [
        *("--policy-name", "NormalizeObservationWrapper(Default(hidden_size=16))", *LSTM[:2]),
    ],
    "puffer_policies/MaskedRecall-v0 lstm": ["--policy-name", "ActionMaskWrapper(Default)", *LSTM],
}
"""Each way of stepping, kind of memory and optimizer once; test_env_state has the other envs."""


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(folder, name="CartPole-v1", *flags):
    return load_config(name.split()[0], [*SMALL, "--train.data-dir", str(folder), *flags])


def stopped_after(updates, monkeypatch):
    """Stop runs after some updates, as clusters do."""
    learn = Trainer.learn

    def stopping(self, batch):
        logs = learn(self, batch)
        if self.epoch == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return logs

    monkeypatch.setattr(Trainer, "learn", stopping)


def timeless(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k != "SPS" and not k.startswith("time/")}
        for line in lines
    ]


def require_same(one, other):
    assert timeless(one) == timeless(other)
    for name, key in [
        ("latest.safetensors", "puffer_policies"),
        ("best.safetensors", "puffer_policies"),
        ("trainer.safetensors", "puffer_policies_trainer"),
    ]:
        if not (one / name).exists():
            assert not (other / name).exists()
            continue
        tensors, header = read_tensors(one / name, key=key)
        others, header_of_other = read_tensors(other / name, key=key)
        assert tensors.keys() == others.keys()
        assert [k for k, each in tensors.items() if not torch.equal(each, others[k])] == []
        if name != "trainer.safetensors":
            told, told_of_other = json.loads(header), json.loads(header_of_other)
            assert told["training"] == told_of_other["training"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_as_if_never_stopped(name, tmp_path, monkeypatch):
    if name.endswith("muon") and not hasattr(torch.optim, "Muon"):
        pytest.skip(f"torch {torch.__version__} has no Muon")
    flags = RUNS[name]
    whole = train_from_config(config_of(tmp_path / "whole", name, *flags), display="quiet")
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        config = config_of(tmp_path / "parts", name, *flags)
        first = train_from_config(config, display="quiet")
    assert first.interrupted
    assert timeless(first.folder)[-1] == {"interrupted": "SIGTERM", "agent_steps": first.steps}
    random.seed(), np.random.seed(None), torch.seed()
    second = train_from_config(load_run_config(first.folder), display="quiet", resume=first.folder)
    assert second.folder == first.folder
    assert (second.steps, second.new_steps) == (whole.steps, whole.steps - first.steps)
    assert second.evaluation == whole.evaluation
    require_same(whole.folder, second.folder)


OTHERS = [
    (["--rnn.low=-5"], r"(?s)other arguments.*low of .*TwoHotWrapper: -10\S* in the file, -5"),
    (["--policy.hidden-size", "16", "--rnn-name", "PopArtWrapper"], "PopArtWrapper"),
]


@pytest.mark.parametrize(("flags", "text"), OTHERS)
def test_a_run_does_not_go_on_with_another_policy_though_its_weights_fit(flags, text, tmp_path):
    first = ["--policy.hidden-size", "16", "--rnn-name", "TwoHotWrapper", "--rnn.low=-10"]
    run = train_from_config(config_of(tmp_path, "CartPole-v1", *first), display="quiet")
    config = load_run_config(run.folder, flags)
    with pytest.raises(CheckpointError, match=text):
        train_from_config(config, display="quiet", resume=run.folder)


NO_STATE = [
    ("CartPole-v1", ["--vec.vectorization", "async"], r"AsyncVectorEnv has no get_state\(\)"),
    ("LunarLander-v3", [], r"LunarLander has no get_state\(\) and set_state\(\)"),
]


@pytest.mark.parametrize(("name", "flags", "text"), NO_STATE)
def test_envs_whose_state_can_t_be_had_start_new_episodes_and_the_run_says_so(
    name, flags, text, tmp_path, monkeypatch, capsys
):
    if name == "LunarLander-v3":
        pytest.importorskip("Box2D")
    flags = [*flags, "--vec.num-envs", "2", "--train.total-timesteps", "256"]
    with monkeypatch.context() as patch:
        stopped_after(1, patch)
        first = train_from_config(config_of(tmp_path, name, *flags), display="quiet")
    second = train_from_config(load_run_config(first.folder), display="plain", resume=first.folder)
    assert (second.steps, second.interrupted) == (256, False)
    noted = [line for line in capsys.readouterr().out.splitlines() if "new episodes" in line]
    assert len(noted) == 1
    assert re.search(text, noted[0])


FORMAT_2 = Path(__file__).parent / "run_of_format_2"
"""After 64 steps of CartPole-v1, saved by the last version that wrote format 2."""


def test_a_run_of_the_format_before_goes_on_but_for_its_envs(tmp_path, capsys):
    folder = Path(shutil.copytree(FORMAT_2, tmp_path / "run"))
    snapshot, _ = read_snapshot(folder / "trainer.safetensors")
    episodes = snapshot.trainer["collector"]["episodes"]
    assert sum(episodes["returns"]) == 50  # three episodes of 16 2/3 steps, says its last line
    assert sum(episodes["running_lengths"]) == 64 - 50 - 3  # three steps only restarted an env
    assert (snapshot.epoch, snapshot.global_step, snapshot.envs) == (2, 64, None)
    config = load_run_config(folder, ["--train.total-timesteps", "128"])
    result = train_from_config(config, display="plain", resume=folder)
    assert (result.steps, result.new_steps) == (128, 64)
    notes = [line for line in capsys.readouterr().out.splitlines() if "new episodes" in line]
    assert len(notes) == 1
    assert "an earlier version of puffer-policies" in notes[0]
    # Statistics of rewards and finished episodes go on.
    after, _ = read_snapshot(folder / "trainer.safetensors")
    assert after.trainer["collector"]["episodes"]["returns"][:3] == episodes["returns"]
    assert after.trainer["reward_scale"]["count"] > snapshot.trainer["reward_scale"]["count"] == 61


def test_lines_after_the_checkpoint_are_cut_away_and_made_anew(tmp_path):
    flags = ["--train.checkpoint-interval", "2", "--train.total-timesteps", "512"]
    whole = train_from_config(config_of(tmp_path, "CartPole-v1", *flags), display="quiet")
    lines = timeless(whole.folder)
    metrics = whole.folder / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"epoch": 5, "agent_st')  # a line that a kill has torn
    again = train_from_config(config_of(tmp_path), display="quiet", resume=whole.folder)
    assert again.steps == 640
    assert [line.get("epoch") for line in timeless(whole.folder)] == [1, 2, 3, 4, 5, None]
    assert timeless(whole.folder)[:4] == lines[:4]


def test_one_run_is_not_gone_on_with_twice_at_a_time(tmp_path):
    first = train_from_config(config_of(tmp_path), display="quiet")
    before = timeless(first.folder)
    # The other process is about to write this file.
    (first.folder / ".trainer.safetensors.1-1").touch()
    with (
        MetricsLog(first.folder / "metrics.jsonl"),
        pytest.raises(ConfigError, match="another process"),
    ):
        train_from_config(config_of(tmp_path), display="quiet", resume=first.folder)
    assert timeless(first.folder) == before
    assert (first.folder / ".trainer.safetensors.1-1").exists()


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no trainer\.safetensors"):
        train_from_config(config_of(tmp_path / "a"), display="quiet", resume=tmp_path)
    first = train_from_config(config_of(tmp_path), display="quiet")
    trainer = first.folder / "trainer.safetensors"
    trainer.write_bytes(trainer.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        train_from_config(config_of(tmp_path), display="quiet", resume=first.folder)
    trainer.write_bytes((first.folder / "latest.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not of the kind asked for"):
        train_from_config(config_of(tmp_path), display="quiet", resume=first.folder)


def test_the_file_of_another_version_is_told(tmp_path):
    first = train_from_config(config_of(tmp_path), display="quiet")
    path, key = first.folder / "trainer.safetensors", "puffer_policies_trainer"
    tensors, header = read_tensors(path, key=key)
    for told in ({"epoch": 3}, {**json.loads(header), "format_version": 99}):
        write_tensors(path, tensors, header=json.dumps(told), key=key)
        with pytest.raises(CheckpointError, match="another version of puffer-policies"):
            train_from_config(config_of(tmp_path), display="quiet", resume=first.folder)


def test_the_best_policy_is_kept_with_its_figure(tmp_path):
    flags = ["--train.total-timesteps", "2816", "--train.learning-rate", "1e-4"]
    flags += ["--train.update-epochs", "1"]
    result = train_from_config(config_of(tmp_path, "CartPole-v1", *flags), display="quiet")
    updates = timeless(result.folder)[:-1]
    settled = [line for line in updates if line["environment/episodes"] >= 100]
    best = max(settled, key=lambda line: line["environment/episode_return"])
    told = read_header(result.folder / "best.safetensors").training
    assert told["mean_return"] == best["environment/episode_return"]
    # Measured with the weights from before the update that was learnt from it.
    assert (told["epoch"], told["global_step"]) == (best["epoch"] - 1, best["agent_steps"])
    assert evaluate_checkpoint(result.folder, best=True).complete is False


@pytest.mark.parametrize(
    ("flags", "wrappers"),
    [
        (LSTM, ["LSTMWrapper"]),
        (["--policy-name", STACK], ["NormalizeObservationWrapper", "FrameStackWrapper"]),
    ],
)
def test_what_the_policy_saw_is_declared_in_the_file_and_read_back(flags, wrappers, tmp_path):
    flags = ["--env.sutton_barto_reward", "True", *flags, "--train.gamma", "0.9"]
    result = train_from_config(config_of(tmp_path, "CartPole-v1", *flags), display="quiet")
    for name in ("latest.safetensors", "best.safetensors", "trainer.safetensors"):
        path = result.folder / name
        header = read_snapshot(path)[1] if name.startswith("trainer") else read_header(path)
        assert Config.from_args(header.config) == load_run_config(result.folder)
        assert header.config["env"] == {"sutton_barto_reward": True}
        assert header.config["train"]["scale_rewards"] is True
        assert [each.name.split("/")[-1] for each in header.spec.wrappers] == wrappers
    factor = read_header(result.checkpoint).training["reward_factor"]
    assert 0 < factor != 1
    assert evaluate_checkpoint(result.checkpoint).returns == result.evaluation.returns
