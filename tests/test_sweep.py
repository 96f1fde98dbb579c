"""Sweeps: ranges as their options are read, trials that go on, and a best config that trains."""

from __future__ import annotations

import json
import signal
import sys

import pytest
import torch
from commands import run

from puffer_policies.config.load import load_config
from puffer_policies.errors import BuildError, ConfigError, MissingDependency
from puffer_policies.studies import sweep as module
from puffer_policies.studies.ranges import (
    SearchRange,
    ranges_of_file,
    ranges_of_flags,
    with_values,
)
from puffer_policies.studies.sweep import RETURN, sweep

pytestmark = pytest.mark.trainer

SMALL = [
    *("--train.total-timesteps", "256", "--train.bptt-horizon", "16", "--vec.num-envs", "8"),
    *("--train.minibatch-size", "auto", "--eval.episodes", "3"),
    *("--train.update-epochs", "1"),
]
RATE = SearchRange("train.learning_rate", 1e-4, 1e-2, log=True)
SIZE = SearchRange("policy.hidden_size", choices=(4, 8))


@pytest.fixture(autouse=True)
def _project(project):
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(*flags, name="CartPole-v1"):
    return load_config(name, [*SMALL, *flags])


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("train.learning-rate=log:1e-4:1e-2", RATE),
        ("--train.learning_rate=log:1e-4:1e-2", RATE),
        ("train.update-epochs=1:8", SearchRange("train.update_epochs", 1, 8)),
        ("train.gamma=0.9:1", SearchRange("train.gamma", 0.9, 1.0)),
        ("policy.hidden-size=4,8", SIZE),
        ("train.anneal-lr=true,false", SearchRange("train.anneal_lr", choices=(True, False))),
        ("train.target-kl=none,0.1", SearchRange("train.target_kl", choices=(None, 0.1))),
    ],
)
def test_a_range_is_read_as_its_option_is(flag, expected):
    assert list(ranges_of_flags([flag]).values()) == [expected]


def test_a_file_holds_ranges_and_still_trains(project):
    path = project / "run.toml"
    path.write_text(
        '[base]\nenv_name = "CartPole-v1"\n[sweep.train]\nlearning_rate = "log:1e-4:1e-2"\n'
        "[sweep.policy]\nhidden_size = [4, 8]\n"
    )
    assert list(ranges_of_file(path).values()) == [RATE, SIZE]
    assert load_config(str(path)).base.env_name == "CartPole-v1"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("train.learnin-rate=1:2", "Did you mean 'learning_rate'?"),
        ("train.gamma=0.9:1.5", "from 0 to 1, found 1.5"),
        ("train.gamma=0.99:0.9", "the smaller first"),
        ("train.gamma=log:0:1", "two numbers above 0"),
        ("train.gamma=0.9", "not a range"),
        ("train.gamma", "no range after the key"),
        ("train.optimizer=adm,sgd", "--train.optimizer"),
        ("policy-name=Default,Structured", "can't search [base]"),
        ("nonsense.key=1:2", "no section"),
    ],
)
def test_a_wrong_range_says_what_is_wrong(flag, expected):
    with pytest.raises(ConfigError) as told:
        ranges_of_flags([flag])
    assert expected in str(told.value)
    assert flag in str(told.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[sweep.train]\ngama = "0.9:0.99"\n', "gamma"),
        ("[sweep.train]\ngamma = 0.9\n", "run.toml:2: train.gamma: 0.9 is not a range"),
        ('[sweep]\n"train.gamma" = "0.9:1"\n', "expected a table [sweep.train.gamma]"),
    ],
)
def test_a_wrong_range_in_a_file_has_its_line(project, text, expected):
    (project / "run.toml").write_text(text)
    with pytest.raises(ConfigError) as told:
        ranges_of_file(project / "run.toml")
    assert expected in str(told.value)
    assert "run.toml:2" in str(told.value)


def test_values_of_a_trial_are_values_of_its_run(project):
    found = sweep(config_of(), [RATE, SIZE], trials=3, folder="new")
    assert [each.outcome for each in found.trials] == ["finished"] * 3
    objectives = [each.objective for each in found.trials]
    assert objectives == sorted(objectives, reverse=True)
    for trial in found.trials:
        run_config = json.loads((project / trial.folder / "config.json").read_text())
        assert run_config["train"]["learning_rate"] == trial.values["train.learning_rate"]
        assert run_config["policy"]["hidden_size"] == trial.values["policy.hidden_size"]
        last = (project / trial.folder / "metrics.jsonl").read_text().splitlines()[-1]
        assert json.loads(last)["evaluation"]["mean"] == trial.objective
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_best_config_trains_the_best_run_again(project):
    config = config_of()
    found = sweep(config, [RATE, SIZE], trials=2, folder="new", sampler="random")
    best = load_config("new/best.toml")
    assert best == with_values(config, found.best.values)
    assert best.train.data_dir == config.train.data_dir
    again = module.train_from_config(best, display="quiet")
    assert again.evaluation.mean == found.best.objective


def test_a_sweep_goes_on_in_its_folder(project):
    first = sweep(config_of(), [RATE], trials=2, folder="new", sampler="random")
    told = []
    second = sweep(config_of(), [RATE], trials=3, folder="new", sampler="random", tell=told.append)
    assert (len(first.trials), len(second.trials), len(told)) == (2, 3, 1)
    assert len({each.values["train.learning_rate"] for each in second.trials}) == 3
    with pytest.raises(ConfigError, match=r"ranges\.policy\.hidden_size: None then, 4,8 now"):
        sweep(config_of(), [RATE, SIZE], trials=4, folder="new")
    with pytest.raises(ConfigError, match=r"config\.train\.gamma"):
        sweep(config_of("--train.gamma", "0.5"), [RATE], trials=4, folder="new")
    with pytest.raises(ConfigError, match=r"env\.sutton_barto_reward: None then, True now"):
        sweep(config_of("--env.sutton-barto-reward", "true"), [RATE], trials=4, folder="new")


def test_an_interrupt_keeps_the_best_so_far(project, monkeypatch):
    train, finished = module.train_from_config, []

    def interrupted_in_third(config, **options):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(train(config, **options))
        return finished[-1]

    monkeypatch.setattr(module, "train_from_config", interrupted_in_third)
    found = sweep(config_of(), [RATE], trials=5, folder="new")
    assert found.interrupted
    assert found.best.outcome == "finished"
    assert [each.outcome for each in found.trials].count("interrupted") == 1
    monkeypatch.setattr(module, "train_from_config", train)
    # The interrupted one counts for nothing.
    went_on = sweep(config_of(), [RATE], trials=3, folder="new")
    assert [each.outcome for each in went_on.trials].count("finished") == 3


def test_a_trial_that_fails_is_told_and_the_others_go_on(project):
    sizes = SearchRange("train.minibatch_size", choices=(100, 64))  # 100 does not divide 128
    found = sweep(config_of(), [sizes], trials=6, folder="new", sampler="random")
    outcomes = {each.values["train.minibatch_size"]: each.outcome for each in found.trials}
    assert outcomes == {64: "finished", 100: "failed"}
    assert "minibatch_size" in found.trials[-1].error


def test_poor_runs_are_pruned_by_their_training_return(project, monkeypatch):
    train = module.train_from_config
    watched = []

    def poorer_each_time(config, *, stop_when, **options):
        watched.append(0)
        fake = -float(len(watched))

        def watch(logs):
            watched[-1] += 1
            return stop_when({**logs, RETURN: fake})

        return train(config, stop_when=watch, **options)

    monkeypatch.setattr(module, "train_from_config", poorer_each_time)
    config = config_of("--train.total-timesteps", "1280")
    found = sweep(config, [RATE], trials=7, folder="new", sampler="random")
    by_number = {each.number: each for each in found.trials}
    assert [by_number[i].outcome for i in range(5)] == ["finished"] * 5
    assert by_number[6].outcome == "pruned"
    assert watched[0] == 10
    assert watched[6] < 10


def test_a_metric_can_be_the_objective(project):
    found = sweep(
        config_of(), [RATE], trials=2, folder="new", objective="losses/entropy", minimize=True
    )
    values = [each.objective for each in found.trials]
    assert values == sorted(values)
    unknown = sweep(config_of(), [RATE], trials=1, folder="other", objective="losses/entrpy")
    assert "no metric 'losses/entrpy'" in unknown.trials[0].error


def test_what_no_trial_could_do_is_told_before_the_first(project):
    with pytest.raises(BuildError, match="hidden_size"):
        sweep(
            config_of(), ranges_of_flags(["policy.hidden-siz=1,2"]).values(), trials=1, folder="n"
        )
    with pytest.raises(ConfigError, match="no wrapper"):
        sweep(config_of(), [SearchRange("rnn.num_layers", 1, 2)], trials=1, folder="n")
    with pytest.raises(ConfigError, match="nothing to search"):
        sweep(config_of(), [], trials=1, folder="n")
    assert not (project / "n").exists()


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependency, match=r"puffer-policies\[sweep\]"):
        sweep(config_of(), [RATE], trials=1, folder="n")


def test_the_verb_prints_the_best_and_how_to_train_it(capsys, project):
    argv = ["sweep", "CartPole-v1", "--trials", "2", *SMALL]
    param = ["--param", "train.learning-rate=log:1e-4:1e-2"]
    code, out, err = run(capsys, *argv, *param)
    assert (code, err.count("trial ")) == (0, 2)
    assert "puffer-policies train sweeps/CartPole-v1/best.toml" in out
    code, out, _ = run(capsys, *argv, *param, "--json")
    assert (code, len(json.loads(out)["trials"])) == (0, 2)  # nothing was left to do
    failing = ["--param", "train.minibatch-size=100,101"]
    code, out, err = run(capsys, *argv, *failing, "-o", "other")
    assert code != 0
    assert "No trial finished" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_names_the_signal(project, monkeypatch, capsys, number):
    def stopped(*_, **__):
        raise KeyboardInterrupt(int(number))

    monkeypatch.setattr(module, "train_from_config", stopped)
    assert (
        run(
            capsys,
            "sweep",
            "CartPole-v1",
            "--trials",
            "1",
            "--param",
            "train.gamma=0.9:1",
            "-o",
            "new",
        )[0]
        == 128 + number
    )
