"""Whole runs from a config, and PufferLib's names over them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import time

import gymnasium
import pytest
import torch
from plain_policies import Plain, PufferLSTM, Split
from rich.console import Console

from puffer_policies import get_policy, pufferl
from puffer_policies.assembly.header import read_header
from puffer_policies.config.load import load_config, load_run_config
from puffer_policies.errors import CheckpointError, ConfigError, EnvError, PolicyError
from puffer_policies.runs import evaluate as evaluation
from puffer_policies.runs import run as module
from puffer_policies.runs.display import Display, Guarded, duration, make_display
from puffer_policies.runs.evaluate import evaluate_checkpoint
from puffer_policies.runs.folder import new_folder
from puffer_policies.runs.run import train_from_config
from puffer_policies.train.trainer import Trainer

SMALL = [
    *("--train.total-timesteps", "512", "--train.bptt-horizon", "16", "--vec.num-envs", "8"),
    *("--train.minibatch-size", "auto", "--eval.episodes", "7", "--train.update-epochs", "1"),
]


def config_of(tmp_path, *flags, name="CartPole-v1"):
    return load_config(name, [*SMALL, "--train.data-dir", str(tmp_path), *flags])


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_an_alarm_is_shown_and_stands_in_the_metrics(tmp_path, monkeypatch, capsys):
    build = module.policy_of

    def with_a_spare_layer(*given, **options):
        policy = build(*given, **options)
        policy.spare = torch.nn.Linear(2, 2)
        return policy

    monkeypatch.setattr(module, "policy_of", with_a_spare_layer)
    result = train_from_config(config_of(tmp_path), display="plain")
    first, second, *_ = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert "no gradient reaches spare.weight, spare.bias" in json.loads(first)["alarms"]["idle"]
    assert "alarms" not in json.loads(second)
    printed = capsys.readouterr().out
    assert "alarm at 128 steps: no gradient reaches spare.weight" in printed
    # The first episode takes many steps, and a line for each of them says nothing.
    assert printed.count("final evaluation: 0 of") == 1


def test_a_run_leaves_its_config_metrics_and_checkpoint(tmp_path):
    result = train_from_config(config_of(tmp_path), display="quiet")
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "best.safetensors",
        "config.json",
        "latest.safetensors",
        "metrics.jsonl",
        "trainer.safetensors",
    ]
    *updates, last = map(json.loads, (result.folder / "metrics.jsonl").read_text().splitlines())
    assert [line["agent_steps"] for line in updates] == [128, 256, 384, 512]
    assert last["evaluation"]["mean"] == result.evaluation.mean
    assert json.loads((result.folder / "config.json").read_text())["train"]["bptt_horizon"] == 16
    told = read_header(result.checkpoint).training
    assert (told["global_step"], told["epoch"]) == (512, 4)


@pytest.mark.parametrize("name", ["CartPole-v1", "cartpole_lstm", "pendulum", "breakout"])
def test_a_checkpoint_alone_gives_the_same_evaluation(name, tmp_path):
    result = train_from_config(config_of(tmp_path, name=name), display="quiet")
    assert evaluate_checkpoint(result.checkpoint).returns == result.evaluation.returns
    assert len(evaluate_checkpoint(result.checkpoint, overrides={"episodes": 3}).returns) == 3


def test_one_seed_gives_one_run(tmp_path):
    first, second = (train_from_config(config_of(tmp_path), display="quiet") for _ in range(2))
    assert first.folder != second.folder
    assert first.evaluation == second.evaluation


def test_a_run_can_go_on_from_a_folder(tmp_path):
    first = train_from_config(config_of(tmp_path), display="quiet")
    config = config_of(tmp_path, "--train.total-timesteps", "1024")
    second = train_from_config(config, display="quiet", resume=first.folder)
    assert (second.steps, second.new_steps) == (1024, 512)
    lines = list(map(json.loads, (first.folder / "metrics.jsonl").read_text().splitlines()))
    assert [line.get("epoch") for line in lines] == [*range(1, 9), None]
    assert load_run_config(first.folder) == config


def test_an_interrupt_ends_the_run_cleanly_with_a_checkpoint(tmp_path, monkeypatch, capsys):
    learn = Trainer.learn

    def interrupted(self, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return learn(self, batch)

    monkeypatch.setattr(Trainer, "learn", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    result = train_from_config(config_of(tmp_path), display="plain")
    assert result.interrupted
    assert result.evaluation is None
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_header(result.checkpoint).training["epoch"] == 1
    assert "Interrupted after 128 steps (SIGINT)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--vec.num-envs", "4"],
            "updates of 128 steps by 8 agents with adam; this run makes updates of 64",
        ),
        (["--policy.hidden-size", "8"], r"hidden_size of .*Default: 128 in the file, 8 now"),
        (["--env-name", "Acrobot-v1"], "trained on other spaces"),
    ],
)
def test_another_run_than_the_first_is_no_resumption(flags, text, tmp_path):
    first = train_from_config(config_of(tmp_path), display="quiet")
    with pytest.raises(CheckpointError, match=text):
        train_from_config(
            load_run_config(first.folder, flags), display="quiet", resume=first.folder
        )
    assert list(tmp_path.iterdir()) == [first.folder]


def test_the_config_of_a_run_is_read_back_with_flags_over_it(tmp_path):
    first = train_from_config(config_of(tmp_path, "--policy.hidden-size", "8"), display="quiet")
    config = load_run_config(first.folder, ["--train.gamma", "0.5"])
    assert (config.policy, config.train.gamma) == ({"hidden_size": 8}, 0.5)
    assert config.origin("train", "gamma") == "command line"
    assert config.origin("policy", "hidden_size") == str(first.folder / "config.json")
    assert load_run_config(first.folder) == config_of(tmp_path, "--policy.hidden-size", "8")
    with pytest.raises(ConfigError, match="not the folder of a run"):
        load_run_config(tmp_path)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("CartPole-v1", ["--train.data-dir", "~/runs"])
    assert new_folder(config).parent == tmp_path / "runs"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_interrupt_during_the_final_evaluation_ends_it_between_two_steps(
    vectorization, tmp_path, monkeypatch
):
    act = evaluation._Player._act

    def interrupted(self, *args):
        os.kill(os.getpid(), signal.SIGINT)
        return act(self, *args)

    monkeypatch.setattr(evaluation._Player, "_act", interrupted)
    result = train_from_config(
        config_of(tmp_path, "--vec.vectorization", vectorization), display="quiet"
    )
    assert result.interrupted
    assert read_header(result.checkpoint).training["epoch"] == 4


def test_a_mistake_is_told_before_anything_is_made(tmp_path):
    with pytest.raises(EnvError, match="CartPole"):
        train_from_config(config_of(tmp_path, name="CartPoel-v1"))
    with pytest.raises(ConfigError, match="minibatches"):
        train_from_config(config_of(tmp_path, "--train.minibatch-size", "100"))
    with pytest.raises(PolicyError, match="Default"):
        train_from_config(config_of(tmp_path, "--policy-name", "Defualt"))
    with pytest.raises(ConfigError, match="device"):
        train_from_config(config_of(tmp_path, "--train.device", "abacus"))
    assert not list(tmp_path.iterdir())


def test_the_envs_are_closed_whatever_happens(tmp_path, monkeypatch):
    closed = []
    close = gymnasium.vector.VectorEnv.close
    monkeypatch.setattr(
        "puffer_policies.vector.gymnasium_envs.GymVecEnv.close",
        lambda self: closed.append(close(self.env)),
    )
    with pytest.raises(ConfigError):
        train_from_config(config_of(tmp_path, "--train.minibatch-size", "100"))
    assert len(closed) == 1


LOGS = {
    "agent_steps": 50,
    "time/env": 1.0,
    "time/act": 1.0,
    "time/learn": 2.0,
    "SPS": 10.0,
    "losses/policy": 0.1,
    "losses/value": 0.2,
    "losses/entropy": 0.3,
    "losses/approx_kl": 0.01,
    "losses/clip_fraction": float("nan"),
    "losses/explained_variance": 0.5,
    "environment/episode_return": 42.0,
    "environment/episode_length": 1234.0,
    "environment/episodes": 100.0,
}


def shown(kind, *, terminal, width=100):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, _environ={"TERM": "xterm"})
    display = make_display(kind, total_steps=100, console=console)
    with contextlib.suppress(KeyboardInterrupt), display:
        display.update(LOGS)
        raise KeyboardInterrupt
    display.note("something happened")
    display.summary("CartPole", {"return": "42"})
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_gets_a_panel_that_fits_and_its_cursor_back(width):
    text = shown("auto", terminal=True, width=width)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    for words in [
        "50%  50 of 100 steps  eta 5 s",
        "speed     10 steps/s  env 25%  act 25%  learn 50%",
        "episodes  return 42.0  length 1,234.0  100 ended",
        "losses    policy 0.100  value 0.200  entropy 0.300",
        "update    kl 0.010  clipped nan  explained 0.500",
        "something happened",
    ]:
        assert words in plain
    assert max(map(len, plain.splitlines())) <= width


def test_a_pipe_gets_plain_lines():
    text = shown("auto", terminal=False)
    assert "\x1b" not in text
    assert "50 steps" in text
    assert "eta 5 s" in text


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SystemExit(1)])
def test_a_screen_that_can_not_be_written_to_is_told_once(error, capsys):
    class Broken(Display):
        def note(self, text):
            raise error

    with Guarded(Broken()) as display:
        display.note("one")
        display.note("two")
    assert capsys.readouterr().err.count("The run goes on, but shows nothing any more") == 1


def test_a_log_gets_lines_of_json(capsys):
    assert shown("json", terminal=True) == ""
    update, note = map(json.loads, capsys.readouterr().out.splitlines())
    assert update == {**LOGS, "losses/clip_fraction": None}
    assert note == {"note": "something happened"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5 s"), (59.7, "1:00 min"), (125, "2:05 min"), (3725, "1:02:05 h")]
)
def test_time_is_told_as_people_do(seconds, text):
    assert duration(seconds) == text


def test_quiet_shows_nothing():
    assert shown("quiet", terminal=True) == ""
    with pytest.raises(ConfigError, match="loud"):
        make_display("loud", total_steps=1)


def puffer_args(tmp_path, *flags):
    return pufferl.load_config("CartPole-v1", [*SMALL, "--train.data-dir", str(tmp_path), *flags])


@pytest.mark.parametrize("make", [Plain, Split, lambda env: PufferLSTM(env, Split(env))])
def test_policies_of_the_guide_are_trained_as_they_are(make, tmp_path):
    args = puffer_args(tmp_path)
    if make not in (Plain, Split):
        args["rnn_name"] = "LSTMWrapper"
        args["train"]["use_rnn"] = True
        args["train"]["bptt_horizon"] = 8
        args["train"]["batch_size"] = 128
    vecenv = pufferl.load_env("CartPole-v1", args)
    trainer = pufferl.PuffeRL(args["train"], vecenv, make(vecenv.driver_env))
    while trainer.global_step < args["train"]["total_timesteps"]:
        trainer.evaluate()
        logs = trainer.train()
    assert logs == trainer.mean_and_log() == trainer.logs
    assert logs["agent_steps"] == 512
    path = trainer.save_checkpoint()
    assert path == tmp_path / "latest.safetensors"
    assert read_header(path).config["train"]["gamma"] == trainer.config.gamma
    with pytest.raises(CheckpointError, match="weights without a spec"):
        evaluate_checkpoint(path)
    trainer.close()


def test_a_checkpoint_of_pufferl_is_evaluated_in_the_env_of_load_env(tmp_path):
    args = pufferl.load_config("CartPole-v1", ["--eval.episodes", "2", "--eval.max-steps", "60"])
    vecenv = pufferl.load_env("pendulum", args)
    trainer = pufferl.PuffeRL(args["train"], vecenv, get_policy("Default", vecenv))
    path = trainer.save_checkpoint(tmp_path / "mine.safetensors")
    trainer.close()
    assert read_header(path).config["env_name"] == "Pendulum-v1"
    assert pufferl.eval(path).episodes == 2
    policy = get_policy("Default", "CartPole-v1")
    own = pufferl.PuffeRL(args["train"], gymnasium.make_vec("CartPole-v1"), policy)
    own.save_checkpoint(path)
    own.close()
    with pytest.raises(CheckpointError, match="does not name the env"):
        pufferl.eval(path)


def test_load_env_makes_the_env_that_it_is_asked_for(tmp_path):
    args = pufferl.load_config("cartpole_lstm")
    for name, observed in (("pendulum", 3), ("cartpole_lstm", 4), ("Acrobot-v1", 6), ("my.ini", 4)):
        vecenv = pufferl.load_env(name, args)
        assert vecenv.single_observation_space.shape == (observed,)
        vecenv.close()


def test_load_policy_builds_what_the_args_name(tmp_path):
    args = puffer_args(tmp_path, "--rnn-name", "LSTMWrapper", "--policy.hidden-size", "32")
    vecenv = pufferl.load_env("CartPole-v1", args)
    policy = pufferl.load_policy(args, vecenv)
    assert str(policy.spec).startswith("puffer-policies/LSTMWrapper(")
    assert policy.hidden_size == 32
    vecenv.close()


def test_the_puffer_breakout_of_the_guide_runs_without_pufferlib(tmp_path):
    args = pufferl.load_config("puffer_breakout")
    args["vec"]["num_envs"] = 4
    args["train"].update(total_timesteps=512, data_dir=str(tmp_path), minibatch_size="auto")
    vecenv = pufferl.load_env("puffer_breakout", args)
    trainer = pufferl.PuffeRL(args["train"], vecenv, Plain(vecenv.driver_env))
    trainer.evaluate()
    assert trainer.train()["agent_steps"] == 256
    trainer.close()


def test_whole_runs_have_puffers_names_too(tmp_path):
    result = pufferl.train("CartPole-v1", puffer_args(tmp_path))
    assert pufferl.eval(result.checkpoint).returns == result.evaluation.returns


def test_two_runs_in_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    config = config_of(tmp_path)
    named = dataclasses.replace(config, train=dataclasses.replace(config.train, env="a/b"))
    assert [new_folder(named).name for _ in range(2)] == ["a_b-now", "a_b-now-2"]
