"""Comparisons: equal budgets and seeds, failures told, what was finished kept."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from commands import run

from puffer_policies.config.load import load_config
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.registry import default_registry, register_policy
from puffer_policies.runs.evaluate import evaluate_checkpoint
from puffer_policies.studies import compare as module
from puffer_policies.studies.compare import compare, config_for
from puffer_policies.zoo.mlp import Default

pytestmark = pytest.mark.trainer

SMALL = [
    *("--train.total-timesteps", "256", "--train.bptt-horizon", "16", "--vec.num-envs", "8"),
    *("--train.minibatch-size", "auto", "--eval.episodes", "3"),
    *("--train.update-epochs", "1"),
]
LSTM = "LSTMWrapper(Default(hidden_size=8))"


@pytest.fixture(autouse=True)
def _project(project):
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(*flags, name="CartPole-v1"):
    return load_config(name, [*SMALL, *flags])


def test_policies_share_budget_and_seeds(project):
    config = config_of("--train.total-timesteps", "200")  # updates of 128 steps are whole
    found = compare(config, ["Default", LSTM], seeds=2, folder="new")
    assert found.seeds == (1, 2)
    assert (found.steps, found.to_dict()["steps_asked"]) == (256, 200)
    assert {entry.policy for entry in found.entries} == {"Default", LSTM}
    for entry in found.entries:
        configs = [json.loads((r.folder / "config.json").read_text()) for r in entry.runs]
        assert [config["train"]["seed"] for config in configs] == [1, 2]
        assert {run.steps for run in entry.runs} == {256}
        again = [evaluate_checkpoint(run.folder).mean for run in entry.runs]
        assert list(entry.returns) == again
        low, high = min(again), max(again)
        assert (entry.to_dict()["interval"], entry.to_dict()["interval_kind"]) == (
            (low, high),
            "range",
        )
        assert entry.return_text == f"{entry.mean:.2f}, range [{low:.2f}, {high:.2f}]"
    assert json.loads((project / "new/comparison.json").read_text()) == json.loads(
        json.dumps(found.to_dict())
    )


def test_a_seed_gives_the_run_that_train_gives(project):
    alone = compare(config_of(), ["Default"], seeds=1, folder="a").entries[0]
    beside = compare(config_of(), [LSTM, "Default"], seeds=1, folder="b").entries
    assert alone.returns in [entry.returns for entry in beside]


def test_arguments_stay_with_the_policy_that_they_were_written_for(project):
    shipped = load_config("cartpole")
    assert shipped.policy == {"hidden_size": 128}
    assert config_for(shipped, "LSTMWrapper(Default)").policy == {"hidden_size": 128}
    assert config_for(shipped, "LSTMWrapper(Default(hidden_size=8))").policy == {}
    assert config_for(shipped, "Structured").policy == {}
    asked = load_config("cartpole", ["--policy.hidden-size", "32"])
    assert config_for(asked, "Structured").policy == {"hidden_size": 32}
    assert config_for(load_config("cartpole_lstm"), "Default").base.rnn_name is None


def test_all_that_does_not_fit_is_told_before_anything_runs(project):
    with pytest.raises(ConfigError) as told:
        compare(config_of(), ["Default", "Continuous", "Defalt", "Default(size=3)"], folder="new")
    assert "'Continuous' does not fit" in str(told.value)
    assert "Did you mean 'Default'?" in str(told.value)
    assert "no argument 'size'" in str(told.value)
    assert not (project / "new").exists()


def test_a_policy_that_fails_is_a_row_and_the_others_go_on(project):
    @register_policy
    class Fragile(Default):
        """Fails in its second step."""

        steps = 0

        def forward_eval(self, observations, state=None):
            self.steps += 1
            if self.steps > 1:
                raise RuntimeError("out of order")
            return super().forward_eval(observations, state)

    told = []
    found = compare(
        config_of(),
        ["Fragile", "Default"],
        seeds=2,
        folder="new",
        registry=default_registry(),
        tell=told.append,
    )
    good, bad = found.entries
    assert (good.policy, len(good.returns), good.error) == ("Default", 2, "")
    assert (bad.returns, bad.speed) == ((), None)
    assert "out of order" in bad.error
    assert len(told) == 3  # it is not tried again with the second seed
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_interrupt_keeps_what_is_done(project, monkeypatch):
    finished, train = [], module.train_from_config

    def interrupted_in_third(config, **options):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(train(config, **options))
        return finished[-1]

    monkeypatch.setattr(module, "train_from_config", interrupted_in_third)
    found = compare(config_of(), ["Default", LSTM], seeds=3, folder="new")
    assert found.interrupted
    # One seed of each, not two of one: they can be compared.
    assert [len(entry.runs) for entry in found.entries] == [1, 1]
    assert json.loads((project / "new/comparison.json").read_text())["interrupted"]
    monkeypatch.setattr(module, "train_from_config", train)
    whole = compare(config_of(), ["Default", LSTM], seeds=2, folder="new")
    assert not whole.interrupted
    assert [len(entry.runs) for entry in whole.entries] == [2, 2]
    finished = {run.folder for entry in found.entries for run in entry.runs}
    assert finished <= {run.folder for entry in whole.entries for run in entry.runs}


def test_an_interrupted_run_goes_on_where_it_stopped(project, monkeypatch):
    train = module.train_from_config

    def stopped_early(config, **options):
        return train(config, **options, stop_when=lambda logs: True)

    monkeypatch.setattr(module, "train_from_config", stopped_early)
    (entry,) = compare(config_of(), ["Default"], seeds=1, folder="new").entries
    assert entry.runs == ()
    seed, folder = entry.unfinished
    monkeypatch.setattr(module, "train_from_config", train)
    (entry,) = compare(config_of(), ["Default"], seeds=1, folder="new").entries
    assert [(run.seed, run.folder) for run in entry.runs] == [(seed, folder)]
    (alone,) = compare(config_of(), ["Default"], seeds=1, folder="uninterrupted").entries
    assert entry.returns == alone.returns


def test_only_the_same_config_goes_on(project):
    compare(config_of(), ["Default"], seeds=1, folder="new")
    with pytest.raises(ConfigError, match=r"train.gamma \(was 0.98, is 0.9\)"):
        compare(config_of("--train.gamma", "0.9"), ["Default"], seeds=1, folder="new")
    (project / "new/comparison.json").write_text('{"policies": 3}')
    with pytest.raises(ConfigError, match="not the table of a comparison"):
        compare(config_of(), ["Default"], seeds=1, folder="new")
    run = {"seed": "1", "folder": "new/a", "mean": 1.0, "seconds": 1.0, "steps": 1}
    entry = {"policy": "Default", "parameters": 1, "runs": [run], "unfinished": None}
    table = {"config": {}, "policies": [entry]}
    (project / "new/comparison.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=r"comparison: policies\[0\].runs\[0\].seed"):
        compare(config_of(), ["Default"], seeds=1, folder="new")


def test_a_folder_with_something_in_it_is_left_alone(project):
    (project / "notes.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        compare(config_of(), ["Default"], folder=project)
    with pytest.raises(ConfigError, match="given twice"):
        compare(config_of(), ["Default", "Default"], folder="new")
    with pytest.raises(EnvError, match="Did you mean"):
        compare(config_of(name="Cartpole-v1"), ["Default"], folder="new")


def test_the_verb_prints_one_table_and_draws_one_picture(capsys, project):
    long = [*SMALL, "--train.total-timesteps", "1024"]
    argv = ["compare", "CartPole-v1", "Default", LSTM, "--seeds", "1", *long]
    code, out, err = run(capsys, *argv, "-o", "new")
    assert (code, out.count(LSTM), err.count("seed 1: return")) == (0, 1, 2)
    assert (project / "new/learning_curves.png").stat().st_size > 1000
    code, out, _ = run(capsys, *argv, "-o", "new", "--json")
    told = json.loads(out)
    assert (code, len(told["policies"]), told["env"]) == (0, 2, "CartPole-v1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_names_the_signal(project, monkeypatch, capsys, number):
    def stopped(*_, **__):
        raise KeyboardInterrupt(int(number))

    monkeypatch.setattr(module, "train_from_config", stopped)
    assert run(capsys, "compare", "CartPole-v1", "Default", "-o", "new")[0] == 128 + number
