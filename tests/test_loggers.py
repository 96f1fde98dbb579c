"""Where a run's measurements go besides its lines of JSON."""

from __future__ import annotations

import json
import sys
import types
import warnings

import pytest
import torch

from puffer_policies.config.load import load_config, load_run_config
from puffer_policies.errors import MissingDependency
from puffer_policies.runs.metrics import Loggers, MetricsLog, numbers
from puffer_policies.runs.run import train_from_config

pytestmark = pytest.mark.trainer

SMALL = [
    *("--train.total-timesteps", "384", "--train.bptt-horizon", "16", "--vec.num-envs", "8"),
    *("--train.minibatch-size", "auto", "--train.batch-size", "auto", "--eval.episodes", "2"),
    *("--eval.max-steps", "20"),
]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(folder, *flags):
    return load_config("CartPole-v1", [*SMALL, "--train.data-dir", str(folder), *flags])


def updates_of(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "epoch" in line]


def test_tensorboard_shows_what_the_metrics_say_and_goes_on(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = train_from_config(config_of(tmp_path, "--log.tensorboard", "True"), display="quiet")
    longer = load_run_config(first.folder, ["--train.total-timesteps", "640"])
    train_from_config(longer, display="quiet", resume=first.folder)
    events = accumulator.EventAccumulator(str(first.folder))
    events.Reload()
    shown = [(each.step, each.value) for each in events.Scalars("losses/value")]
    written = [(line["agent_steps"], line["losses/value"]) for line in updates_of(first.folder)]
    assert [step for step, _ in shown] == [128, 256, 384, 512, 640]
    assert shown == [(step, pytest.approx(value)) for step, value in written]
    assert [each.step for each in events.Scalars("evaluation/episodes_asked")] == [384, 640]


class FakeRun:
    def __init__(self, given):
        self.given, self.logged, self.finished = given, [], False

    def log(self, metrics):
        self.logged.append(metrics)

    def finish(self):
        self.finished = True


def test_wandb_is_sent_config_and_metrics_under_the_folders_name(tmp_path, monkeypatch):
    runs = []
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **given: runs.append(FakeRun(given)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    first = train_from_config(config_of(tmp_path, "--log.wandb", "zoo"), display="quiet")
    longer = load_run_config(first.folder, ["--train.total-timesteps", "512"])
    train_from_config(longer, display="quiet", resume=first.folder)
    name = first.folder.name
    for run in runs:
        assert (run.given["project"], run.given["id"], run.given["resume"]) == (
            "zoo",
            name,
            "allow",
        )
        assert run.given["config"]["train"]["bptt_horizon"] == 16
        assert run.finished
    logged = [each["agent_steps"] for run in runs for each in run.logged if "epoch" in each]
    assert logged == [128, 256, 384, 512]
    assert runs[0].logged[-1]["evaluation/seed"] == 10_000


@pytest.mark.parametrize(
    ("flags", "module", "extra"),
    [
        (["--log.wandb", "zoo"], "wandb", r"puffer-policies\[wandb\]"),
        (["--log.tensorboard", "True"], "tensorboard", r"puffer-policies\[tensorboard\]"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    flags, module, extra, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=module) as caught:
        train_from_config(config_of(tmp_path, *flags), display="quiet")
    assert caught.match(extra)


class Failing:
    """A logger that fails in one of its methods."""

    def __init__(self, method=""):
        self.method, self.calls = method, []

    def __getattr__(self, name):
        def call(*_):
            self.calls.append(name)
            if name == self.method:
                raise RuntimeError("no connection")

        return call


@pytest.mark.parametrize("method", ["write", "sync", "close"])
def test_a_logger_that_fails_is_left_out_and_the_others_go_on(method, tmp_path):
    failures, (bad, good) = [], (Failing(method), Failing())
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        loggers = Loggers(log, failures)
        for each in (bad, good):
            loggers.add("test", lambda each=each: each)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                loggers.write({"epoch": 1})
                loggers.sync()
            loggers.close()
    assert [str(each.message) for each in caught] == failures
    (failure,) = failures
    assert failure.startswith(f"Failing failed in {method}(): RuntimeError: no connection.")
    assert bad.calls[-1] == method
    assert bad.calls.count(method) == 1
    assert good.calls == ["write", "sync", "write", "sync", "close"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_logger_that_can_not_start_takes_no_run_away(tmp_path, monkeypatch):
    def init(**_):
        raise ConnectionError("no such host")

    wandb = types.ModuleType("wandb")
    wandb.init = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.warns(RuntimeWarning, match="wandb can't be started: ConnectionError"):
        result = train_from_config(config_of(tmp_path, "--log.wandb", "zoo"), display="quiet")
    assert result.evaluation is not None
    assert "no such host" in result.failures[0]


def test_only_numbers_are_drawn():
    metrics = {"a": 1, "b": {"c": 0.5, "d": True, "e": None}, "interrupted": "SIGTERM", "f": [1]}
    assert numbers(metrics) == {"a": 1, "b/c": 0.5}
