"""Whatever happens to a run, what it leaves can be loaded, and one message says what happened."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
import torch
from commands import run

from puffer_policies import files
from puffer_policies.assembly.checkpoint import load_policy, read_checkpoint
from puffer_policies.assembly.header import read_header
from puffer_policies.config.load import load_config, load_run_config
from puffer_policies.errors import ConfigError, EnvError, PolicyError, TrainingError
from puffer_policies.runs import interrupts
from puffer_policies.runs.interrupts import interruptible
from puffer_policies.runs.metrics import MetricsLog
from puffer_policies.runs.run import train_from_config
from puffer_policies.runs.snapshot_file import read_snapshot
from puffer_policies.train.ppo import PPO
from puffer_policies.train.trainer import Trainer

pytestmark = pytest.mark.trainer

SMALL = [
    *("--train.total-timesteps", "512", "--train.bptt-horizon", "16", "--vec.num-envs", "8"),
    *("--train.minibatch-size", "auto", "--train.batch-size", "auto", "--eval.episodes", "2"),
    *("--train.checkpoint-interval", "1", "--eval.max-steps", "20"),
    *("--train.update-epochs", "1"),
]
POLICIES = ("latest.safetensors", "best.safetensors")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(folder, *flags):
    return load_config("CartPole-v1", [*SMALL, "--train.data-dir", str(folder), *flags])


def only_run(folder):
    (found,) = folder.iterdir()
    return found


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def require_loadable(folder, *, epoch=None):
    """Load every file of a run, and go on with it to its end."""
    env = gymnasium.make("CartPole-v1")
    for name in POLICIES:
        if (folder / name).exists():
            load_policy(folder / name, env)
    env.close()
    saved = read_snapshot(folder / "trainer.safetensors")[0].epoch
    assert epoch in (None, saved)
    result = train_from_config(load_run_config(folder), display="quiet", resume=folder)
    assert result.steps == 512
    assert [line.get("epoch") for line in lines_of(folder)] == [1, 2, 3, 4, None]
    assert not list(folder.glob(".*"))


# Killed ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from puffer_policies import files
from puffer_policies.cli.main import main
import puffer_policies.runs.run

# One process imports everything, and a fork of it dies in each of several places.
for number in (4, 5, 6):
    if os.fork() == 0:
        replace, left = os.replace, number
        def killing(source, target):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            replace(source, target)
        files.os.replace = killing
        os._exit(main([*sys.argv[2:], "--train.data-dir", f"{sys.argv[1]}/{number}"]))
    _, status = os.wait()
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (number, status)
"""


def test_a_kill_between_writing_and_renaming_leaves_whole_files(tmp_path, forks):
    # config.json is the first file, then best, trainer and latest after each update.
    program, runs = tmp_path / "killed.py", tmp_path / "runs"
    program.write_text(KILLED)
    arguments = [str(runs), "train", "CartPole-v1", *SMALL]
    done = forks.run(program, *arguments, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    for number in (4, 5, 6):
        require_loadable(only_run(runs / str(number)))


SAVING = """
import os, signal, sys, time
from pathlib import Path
import torch
from puffer_policies.assembly.tensorfile import read_tensors, write_tensors

path = Path(sys.argv[1])
tensors = {str(i): torch.full((50_000,), 0.0) for i in range(4)}
for delay in map(float, sys.argv[2:]):
    if (child := os.fork()) == 0:
        for number in range(10**9):
            for each in tensors.values():
                each.fill_(number)
            write_tensors(path, tensors, header=str(number), key="test")
    while not path.exists():
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found, header = read_tensors(path, key="test")
    assert all(torch.equal(each, torch.full((50_000,), float(header))) for each in found.values())
    path.unlink()
"""


def test_a_kill_at_any_moment_leaves_one_whole_file(tmp_path, forks):
    delays = np.random.default_rng(0).uniform(0, 0.05, size=10).astype(str)
    program, path = tmp_path / "saving.py", tmp_path / "file.safetensors"
    program.write_text(SAVING)
    done = forks.run(program, str(path), *delays, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


# Full disks and folders that can't be written --------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_ends_the_run_with_one_message_and_the_last_checkpoint(
    call, tmp_path, monkeypatch, capsys
):
    learn = Trainer.learn

    def filling(self, batch):
        if self.epoch == 2:
            monkeypatch.setattr(files.os, call, full)
        return learn(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", filling)
        arguments = ["train", "CartPole-v1", *SMALL, "--train.data-dir", str(tmp_path), "--quiet"]
        code, _, err = run(capsys, *arguments)
    monkeypatch.undo()
    assert code == 2
    assert err.count("error:") == 1
    assert "No space left on device" in err
    assert "The last checkpoint, of update 2, is in" in err
    require_loadable(only_run(tmp_path), epoch=2)


def test_a_disk_too_full_for_metrics_keeps_the_update(tmp_path, monkeypatch):
    write, written = MetricsLog.write, []

    class Full(io.StringIO):
        write = full

    def filling(self, metrics):
        written.append(metrics)
        if len(written) == 3:
            self._file.close()
            self._file = Full()
        write(self, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", filling)
        with pytest.raises(TrainingError, match=r"No space left(.|\n)*of update 3, is in"):
            train_from_config(config_of(tmp_path), display="quiet")
    folder = only_run(tmp_path)
    assert len(lines_of(folder)) == 2
    assert read_header(folder / "latest.safetensors").training["epoch"] == 3


def test_a_folder_that_can_t_be_written_is_told_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for place in ("file", "file/below"):
        flags = ["--train.data-dir", str(tmp_path / place)]
        code, _, err = run(capsys, "train", "CartPole-v1", *SMALL, *flags)
        assert code == 2
        assert "No folder for the run can be created" in err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl can't be written"):
        MetricsLog(tmp_path / "run" / "metrics.jsonl")


# Failures in the middle ------------------------------------------------------------------------


class Breaking(gymnasium.Env):
    """Raises, or pays NaN, in its 30th step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, how):
        self.how, self.steps = how, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 30 and self.how == "raise":
            raise ZeroDivisionError("the env's own mistake")
        reward = float("nan") if self.steps == 30 else 1.0
        return np.zeros(2, np.float32), reward, self.steps % 7 == 0, False, {}


@pytest.fixture
def breaking():
    gymnasium.register("Breaking-v0", Breaking)
    yield "Breaking-v0"
    del gymnasium.registry["Breaking-v0"]


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [("raise", EnvError, "the env's own mistake"), ("pay", TrainingError, "reward = nan")],
)
def test_a_failure_of_the_env_saves_the_last_finished_update(how, error, text, breaking, tmp_path):
    flags = ["--train.checkpoint-interval", "0", "--env.how", repr(how)]
    config = load_config(breaking, [*SMALL, "--train.data-dir", str(tmp_path), *flags])
    with pytest.raises(error, match=text) as caught:
        train_from_config(config, display="quiet")
    folder = only_run(tmp_path)
    assert f"The last checkpoint, of update 2, is in {folder}" in caught.value.problem
    *updates, last = lines_of(folder)
    assert [line["epoch"] for line in updates] == [1, 2]
    assert text in last["error"]
    assert read_header(folder / "latest.safetensors").training["epoch"] == 2
    saved = read_snapshot(folder / "trainer.safetensors")[0]
    assert (saved.epoch, saved.missing_envs) == (2, "the run ended in the midst of an update")


def test_a_failure_of_the_update_does_not_save_half_of_it(tmp_path, monkeypatch):
    step, learn = PPO.step, Trainer.learn
    before, begun = [], []

    def beginning(self, batch):
        begun.append(self.epoch)
        return learn(self, batch)

    def failing(self, *arguments):
        if begun[-1] == 2:
            if not before:
                before.append({k: v.clone() for k, v in self.policy.state_dict().items()})
            elif len(before) == 3:
                raise RuntimeError("out of memory, say")
            else:
                before.append({})
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", beginning)
        patch.setattr(PPO, "step", failing)
        with pytest.raises(TrainingError, match="RuntimeError: out of memory"):
            train_from_config(
                config_of(tmp_path, "--train.checkpoint-interval", "0"), display="quiet"
            )
    folder = only_run(tmp_path)
    tensors = read_checkpoint(folder / "latest.safetensors").tensors
    assert all(torch.equal(each, before[0][name]) for name, each in tensors.items())
    require_loadable(folder, epoch=2)


def test_weights_that_are_not_finite_do_not_replace_good_ones(tmp_path, monkeypatch):
    learn = Trainer.learn

    def breaking(self, batch):
        logs = learn(self, batch)
        if self.epoch == 3:
            next(self.policy.parameters()).data.fill_(float("nan"))
        return logs

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", breaking)
        flags = ["--train.checkpoint-interval", "2"]
        with pytest.raises(TrainingError, match="after update 3 are not finite"):
            train_from_config(config_of(tmp_path, *flags), display="quiet")
    require_loadable(only_run(tmp_path), epoch=2)


def test_a_failure_before_the_first_update_says_that_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "collect", full)
    with pytest.raises(TrainingError, match="There is no checkpoint in"):
        train_from_config(config_of(tmp_path), display="quiet")
    assert sorted(each.name for each in only_run(tmp_path).iterdir()) == [
        "config.json",
        "metrics.jsonl",
    ]


def test_a_run_whose_folder_was_deleted_does_not_point_at_it(tmp_path, monkeypatch):
    learn = Trainer.learn

    def deleting(self, batch):
        if self.epoch == 1:
            shutil.rmtree(only_run(tmp_path))
        return learn(self, batch)

    monkeypatch.setattr(Trainer, "learn", deleting)
    with pytest.raises(PolicyError, match="There is no checkpoint in") as caught:
        train_from_config(config_of(tmp_path, "--train.checkpoint-interval", "1"), display="quiet")
    assert "--resume" not in caught.value.problem


# Signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_second_signal_after_a_while_leaves_at_once(number, monkeypatch, request):
    if (
        number is not signal.SIGINT
    ):  # nohup has the tests ignore some, and the run does then as well
        before = signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, before))
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    with interruptible() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.signal == number.name
        now[0] += 2 * interrupts.GRACE
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), number)
    assert caught.value.args == (number,)
    assert interrupts.exit_code(stop.signal) == 128 + number


def test_a_run_that_hangs_leaves_a_while_after_a_signal_of_a_machine(monkeypatch):
    monkeypatch.setattr(interrupts, "PATIENCE", 0.05)
    monkeypatch.setattr(interrupts, "GRACE", 0.01)
    event = threading.Event()
    with interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            event.wait()


def test_signals_that_a_host_ignores_or_uses_are_its_own():
    received = []
    handlers = {
        signal.SIGHUP: signal.SIG_IGN,
        signal.SIGUSR1: lambda *_: received.append("SIGUSR1"),
    }
    before = {number: signal.signal(number, each) for number, each in handlers.items()}
    try:
        with interruptible() as stop:
            for number in handlers:
                os.kill(os.getpid(), number)
            assert not stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert received == ["SIGUSR1"]


def test_leaving_at_once_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    learn = Trainer.learn

    def leaving(self, batch):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return learn(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", leaving)
        with pytest.raises(KeyboardInterrupt):
            train_from_config(config_of(tmp_path), display="quiet")
    require_loadable(only_run(tmp_path), epoch=2)


EARLY = """
import os, signal, sys
# The tests may run in the background, where SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from puffer_policies.cli.main import main
sys.exit(main(["list"]))
"""


@pytest.mark.parametrize(
    "name", ["puffer_policies.cli.parser", "pluggy", "puffer_policies.registry"]
)
def test_an_interrupt_during_the_first_imports_is_told_in_a_word(name):
    done = subprocess.run(
        [sys.executable, "-c", EARLY, name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
