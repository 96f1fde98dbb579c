"""What can't be trained is refused in words before it is made: arguments, processes, sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces
from gymnasium import vector
from training_toys import Clock

from puffer_policies import PolicySpec, Spaces, get_policy, load_policy, pufferl
from puffer_policies.agent import Agent
from puffer_policies.assembly.checkpoint import read_checkpoint, save_checkpoint
from puffer_policies.checks.engine.places import class_at
from puffer_policies.config.load import load_config
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import (
    BuildError,
    CheckpointError,
    ConfigError,
    IncompatibleSpace,
    PolicyError,
)
from puffer_policies.hub.location import checkpoint_of
from puffer_policies.runs.setup import policy_of
from puffer_policies.train import distributed
from puffer_policies.train.distributed import joined
from puffer_policies.train.plan import MAX_BATCH, make_plan, total_steps
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv, make_vecenv
from puffer_policies.vector.machine import main_memory, require_memory
from puffer_policies.wrappers.memory import LSTMWrapper

OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.mark.parametrize("key", ["validate", "registry", "wrappers", "env", "policy", "kwargs"])
@pytest.mark.parametrize("name", ["Default", "LSTMWrapper(Default)"])
def test_an_argument_of_a_policy_is_never_one_of_the_builder(key, name):
    config = load_config("CartPole-v1", ["--policy-name", name, f"--policy.{key}", "off"])
    with pytest.raises(BuildError, match=f"Can't build 'Default': no argument '{key}'"):
        policy_of(config, "CartPole-v1")


@pytest.mark.parametrize("text", ["no", "False", "0", ""])
def test_text_is_no_truth_value_of_an_argument(text):
    with pytest.raises(BuildError, match=f"'state_dependent_std' is '{text}', not true or false"):
        get_policy("Continuous", "Pendulum-v1", state_dependent_std=text)


@pytest.mark.parametrize("number", [None, "2", 2.5, 1e6, [1], True, 0, -1])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("FrameStackWrapper", "frames"),
        ("LSTMWrapper", "num_layers"),
        ("GRUWrapper", "num_layers"),
        ("MinGRUWrapper", "num_layers"),
        ("GTrXLWrapper", "num_layers"),
    ],
)
def test_a_count_is_a_whole_number_from_1_on(name, argument, number):
    with pytest.raises(BuildError, match=rf"{argument}=.* should be a whole number from 1 "):
        get_policy(f"{name}(Default, {argument}={number!r})", "CartPole-v1")


def test_whatever_the_code_of_a_wrapper_raises_names_the_wrapper():
    class Greedy(LSTMWrapper):
        @staticmethod
        def wrapped_spaces(spaces, **kwargs):
            raise MemoryError

    with pytest.raises(BuildError, match=r"Building 'Greedy' with {} failed: MemoryError"):
        get_policy("Default", "CartPole-v1", wrappers=[Greedy])


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is 4, but MASTER_ADDR and MASTER_PORT are not set"),
        ({"MASTER_ADDR": "x", "MASTER_PORT": "1"}, "WORLD_SIZE is 4, but RANK is not set"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE in the environment: expected an integer"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE in the environment: expected a number >= 1"),
        ({"RANK": "4", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK in the environment"),
        ({"RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1e9"}, "MASTER_PORT in the environ"),
    ],
)
def test_half_an_environment_of_torchrun_is_explained(monkeypatch, environ, problem):
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "4", **environ}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=problem) as caught, joined("cpu"):
        pass
    assert "torchrun" in caught.value.fix


def test_processes_that_can_not_be_joined_are_an_error_in_words(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the address is in use\nmore")

    monkeypatch.setattr(distributed.dist, "init_process_group", fail)
    for name, value in zip(OTHERS, ("0", "2", "0", "x", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2 processes can't be joined: the address") as caught:
        joined("cpu").__enter__()
    assert "more" not in caught.value.problem


def test_a_rollout_that_no_memory_holds_is_refused_before_it_is_allocated():
    env = as_vecenv(Clock([(3, "t")]))
    config = TrainConfig(bptt_horizon=2**31, minibatch_size=2**31)
    with pytest.raises(
        ConfigError, match=r"Rollouts of 2,147,483,648 steps in 1 envs need"
    ) as caught:
        Trainer(config, env, get_policy("Default", env))
    assert "bptt_horizon" in caught.value.fix


@pytest.mark.parametrize("mode", ["auto", "sync", "async"])
def test_more_envs_than_memory_holds_are_refused_before_the_first_is_made(mode):
    with pytest.raises(ConfigError, match=r"10,000,000,000 envs \(vec.num_envs\) need"):
        make_vecenv("CartPole-v1", 10**10, vectorization=mode)


def test_memory_is_compared_only_where_it_is_known(monkeypatch):
    require_memory(5, "They", fix="", memory=5)
    with pytest.raises(ConfigError, match="They need"):
        require_memory(6, "They", fix="", memory=5)
    assert (main_memory() or math.inf) > 2**20
    monkeypatch.setattr("puffer_policies.vector.machine.main_memory", lambda: None)
    require_memory(10**30, "They", fix="")


def test_sizes_of_a_plan_are_found_without_trying_every_number():
    config = TrainConfig(bptt_horizon=1, batch_size=MAX_BATCH - 5, minibatch_size=7)
    with pytest.raises(ConfigError, match="minibatches: not a whole number"):
        make_plan(config, 1, recurrent=True)
    assert make_plan(TrainConfig(batch_size=2**31 - 1), 1, recurrent=False).minibatch_size
    with pytest.raises(ConfigError, match="more than 4,294,967,296 steps"):
        make_plan(TrainConfig(bptt_horizon=10**18), 8, recurrent=True)


@pytest.mark.parametrize(("asked", "steps"), [(1, 64), (64, 64), (65, 128)])
def test_a_run_makes_whole_updates(asked, steps):
    config = TrainConfig(total_timesteps=asked, bptt_horizon=16)
    assert total_steps(config, 4) == steps
    assert make_plan(config, 4, recurrent=False).total_steps == steps


PARTS = (
    gym_spaces.Box(-1, 1, (3,)),
    gym_spaces.Discrete(4),
    gym_spaces.Dict({"a": gym_spaces.Box(-1, 1, (3,)), "b": gym_spaces.Discrete(2)}),
)


@pytest.mark.parametrize("space", PARTS, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        *("Default", "Structured", "MultiInput", "LSTMWrapper(Default)"),
        *("FrameStackWrapper(Default)", "PrevActionRewardWrapper(Default)"),
    ],
)
def test_arrays_where_tensors_are_needed_are_named(name, space):
    policy = get_policy(name, Spaces(space, gym_spaces.Discrete(2)))
    observations = vector.utils.concatenate(
        space, [space.sample()] * 2, vector.utils.create_empty_array(space, 2)
    )
    for call in (policy.forward_eval, policy.forward):
        with pytest.raises(IncompatibleSpace, match=r"should be a torch\.Tensor, not numpy\.nd"):
            call(observations, {})


def test_arrays_in_a_state_are_named():
    policy = get_policy("LSTMWrapper(Default)", "CartPole-v1")
    state = {**policy.initial_state(2), "episode_start": np.zeros(2, bool)}
    with pytest.raises(IncompatibleSpace, match=r"episode_start.* should be a torch"):
        policy.forward_eval(torch.zeros(2, 4), state)


@pytest.mark.parametrize("name", ["Default", "MultiInput", "FrameStackWrapper(Default)"])
def test_a_part_that_can_not_be_read_is_named_by_its_key(name):
    inner = gym_spaces.Dict({"words": gym_spaces.Text(5)})
    space = gym_spaces.Dict({"a": gym_spaces.Discrete(2), "b": inner})
    with pytest.raises(IncompatibleSpace, match=r"'b.*words'.*Text"):
        get_policy(name, Spaces(space, gym_spaces.Discrete(2)))


@pytest.mark.parametrize(
    ("content", "kind"), [(b"PK\x03\x04rest", "a zip archive"), (b"\x80\x02}q", "a pickle")]
)
def test_a_file_of_torch_is_not_called_damaged(tmp_path, content, kind):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model.pt is {kind}") as caught:
        read_checkpoint(path)
    assert "damaged" not in str(caught.value)


def test_a_tilde_stands_for_the_home_wherever_a_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_checkpoint("~/x.safetensors", get_policy("Default", "CartPole-v1"), env="CartPole-v1")
    assert (tmp_path / "x.safetensors").is_file()
    assert Agent.load("~/x.safetensors", "CartPole-v1").policy.hidden_size == 128
    assert checkpoint_of("~/x.safetensors") == tmp_path / "x.safetensors"
    assert class_at(f"~/{_module(tmp_path)}::Net").__name__ == "Net"


def _module(folder):
    (folder / "nets_at_home.py").write_text("class Net: pass\n")
    return "nets_at_home.py"


@pytest.mark.parametrize("value", [None, 3, {"a": 1}, ["Default"], object()])
def test_what_is_no_path_no_name_and_no_table_is_named(value):
    doors = (
        lambda: load_policy(value),
        lambda: Agent.load(value),
        lambda: load_config(value),
        lambda: pufferl.load_config(value),
        lambda: pufferl.load_env("CartPole-v1", value),
        lambda: PolicySpec.from_json(value),
        lambda: get_policy(value, "CartPole-v1"),
    )
    for door in doors:
        with pytest.raises(PolicyError, match=r"(?s)found|got|not JSON|no such key|Expected"):
            door()


def test_a_config_is_found_by_any_kind_of_path(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[base]\nenv_name = "CartPole-v1"\n')
    for form in (path, str(path), bytes(path), Path("cartpole")):
        assert load_config(form).base.env_name == "CartPole-v1"
