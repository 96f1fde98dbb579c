"""Envs of the user's own: the module that registers them is imported by consent, and only so."""

from __future__ import annotations

import json
import os
import sys

import gymnasium
import pytest
from commands import run
from fake_packages import site_in, write_files

from puffer_policies import pufferl
from puffer_policies.assembly.header import read_header
from puffer_policies.errors import ConfigError, EnvError, PluginError, PolicyNotFound, TrustError
from puffer_policies.registry import default_registry, imports, set_default_registry
from puffer_policies.spaces import spaces_of

pytestmark = pytest.mark.trainer

MODULE = """
    from pathlib import Path

    import gymnasium
    from gymnasium import spaces
    from gymnasium.wrappers import TimeLimit

    Path(__file__).with_name("ran").touch()

    class Corridor(gymnasium.Env):
        observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = 0
            return self.observation_space.low, {}

        def step(self, action):
            self.place += int(action)
            return self.observation_space.low + self.place, 1.0, self.place == 9, False, {}

    def wrapped(length=20):
        return TimeLimit(Corridor(), length)

    gymnasium.register("Corridor-v0", entry_point="my_envs:Corridor", max_episode_steps=20)
    gymnasium.register("Wrapped-v0", entry_point=wrapped)
"""
POLICY = """
    from puffer_policies import register_policy
    from puffer_policies.models import Default

    @register_policy
    class Mine(Default): ...
"""
QUICK = (
    *("--train.total-timesteps", "64", "--train.bptt-horizon", "8", "--vec.num-envs", "4"),
    *("--train.minibatch-size", "auto", "--eval.episodes", "2", "--quiet"),
)
OWN = 'schema = 1\n[envs]\nCorridor-v0 = "my_envs"\n'


@pytest.fixture
def folder(project, tmp_path, monkeypatch):
    """Run in a folder with a module of envs; what it registers is forgotten afterwards."""
    ids, path = set(gymnasium.registry), list(sys.path)
    monkeypatch.delenv("PUFFER_POLICIES_REGISTRY", raising=False)
    monkeypatch.setattr(imports, "_modules", [])
    with site_in(tmp_path):
        sys.path[:] = path
        write_files(tmp_path, {"my_envs.py": MODULE, "my_nets.py": POLICY})
        yield tmp_path
    for env_id in set(gymnasium.registry) - ids:
        del gymnasium.registry[env_id]


def has_run(folder):
    return (folder / "ran").exists()


def forget(folder):
    """Forget what was imported, as another process has not imported it."""
    (folder / "ran").unlink()
    imports._modules.clear()
    sys.modules.pop("my_envs", None)
    for env_id in ("Corridor-v0", "Wrapped-v0"):
        gymnasium.registry.pop(env_id, None)
    sys.path[:] = [each for each in sys.path if each != str(folder)]


def only_run(folder):
    (path,) = (folder / "runs").iterdir()
    return path


# -- consent on the command line -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Corridor-v0", "my_envs:Corridor-v0", "Wrapped-v0"])
def test_an_env_of_ones_own_is_trained_after_an_import(folder, capsys, name):
    code, _, error = run(capsys, "train", name, "--import", "my_envs", *QUICK)
    assert code == 0, error
    assert only_run(folder).name.startswith(name.replace(":", "_"))


def test_an_import_registers_policies_too(folder, capsys):
    words = ("list", "--fits", "Corridor-v0", "--import", "my_nets", "--import", "my_envs")
    code, printed, error = run(capsys, *words)
    assert code == 0, error
    assert "Mine" in printed


def test_a_run_names_its_imports_and_nothing_imports_by_that(folder, capsys):
    assert run(capsys, "train", "Corridor-v0", "--import", "my_envs", *QUICK)[0] == 0
    forget(folder)
    path = str(only_run(folder))
    for words in (("eval", path), ("train", "--resume", path)):
        code, _, error = run(capsys, *words)
        assert code == 2
        assert "trust them: --import my_envs" in error
    assert not has_run(folder)
    code, printed, _ = run(capsys, "eval", path, "--episodes", "1", "--import", "my_envs")
    assert (code, has_run(folder)) == (0, True)
    assert "return" in printed


@pytest.mark.parametrize("name", ["my_envs:Corridor-v0", "Corridor-v0", "my_env:Corridor-v0"])
def test_without_consent_no_name_imports_and_the_step_is_named(folder, capsys, name):
    code, _, error = run(capsys, "train", name, *QUICK)
    assert code == 2
    assert f"--import {name.partition(':')[0] if ':' in name else 'MODULE'}" in error
    with pytest.raises(EnvError, match="--import"):
        spaces_of(name)
    assert not has_run(folder)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("my_env", "Did you mean 'my_envs'"),
        ("my_envs.py", "Write --import my_envs."),
        ("./my_envs.py", "Write --import my_envs."),
        ("my_envs:Corridor", "is not the name of a module"),
        ("exits", "SystemExit"),
        ("needs", "ModuleNotFoundError: No module named 'gone'"),
        ("json", "Rename yours"),
    ],
)
def test_an_import_that_fails_is_told_with_the_cure(folder, capsys, module, text):
    own = {"exits.py": "import sys\nsys.exit(3)", "needs.py": "import gone", "json.py": ""}
    write_files(folder, own)
    code, _, error = run(capsys, "list", "--import", module)
    assert code == 2
    assert text in error


# -- a package that a config names -----------------------------------------------------------------

GUIDE = """
    from pathlib import Path

    import gymnasium
    import torch.nn as nn
    from gymnasium.envs.classic_control import CartPoleEnv

    import puffer_policies.pytorch
    from puffer_policies.models import Default, Structured

    Path(__file__).with_name("ran").touch()

    class MyPolicy(nn.Module):
        def __init__(self, env, hidden_size=256):
            super().__init__()
            self.hidden_size, self.is_continuous = hidden_size, False
            width = env.single_observation_space.shape[0]
            self.encoder = puffer_policies.pytorch.layer_init(nn.Linear(width, hidden_size))
            self.actor = nn.Linear(hidden_size, env.single_action_space.n)
            self.critic = nn.Linear(hidden_size, 1)

        def encode_observations(self, observations, state=None):
            return self.encoder(observations).relu()

        def decode_actions(self, hidden):
            return self.actor(hidden), self.critic(hidden)

        def forward_eval(self, observations, state=None):
            return self.decode_actions(self.encode_observations(observations, state))

        def forward(self, observations, state=None):
            return self.forward_eval(observations, state)

    class MyMemory(puffer_policies.models.LSTMWrapper): ...

    class Convolutional(MyPolicy): ...

    gymnasium.register("my_env", CartPoleEnv, max_episode_steps=200)
"""
INI = """
    [base]
    package = my_package
    env_name = {env}
    policy_name = {policy}
    rnn_name = {rnn}

    [policy]
    hidden_size = 32

    [train]
    total_timesteps = 64
    bptt_horizon = 8
    minibatch_size = auto

    [vec]
    num_envs = 4

    [eval]
    episodes = 2
"""
CONSENT = ("--import", "my_package")


def guide_files(folder, env="my_env", policy="MyPolicy", rnn="None"):
    ini = INI.format(env=env, policy=policy, rnn=rnn)
    write_files(folder, {"my_package.py": GUIDE, "my.ini": ini})


def test_a_class_that_was_never_registered_is_trained_by_its_config_after_an_import(folder, capsys):
    guide_files(folder, rnn="MyMemory")
    code, _, error = run(capsys, "train", "my.ini", *CONSENT, "--quiet")
    assert code == 0, error
    path = str(only_run(folder))
    code, printed, error = run(capsys, "eval", path, "--json", *CONSENT)
    assert code == 0, error
    assert json.loads(printed)["episodes"] == 2
    assert str(read_header(path).spec) == "local/MyMemory(local/MyPolicy(hidden_size=32))"
    more = ("--resume", path, "--train.total-timesteps", "128")
    assert run(capsys, "train", *more, *CONSENT)[0] == 0


def test_a_package_in_a_config_is_not_imported_and_the_error_says_the_step(folder, capsys):
    guide_files(folder, env="CartPole-v1")
    for words in (("train", "my.ini"), ("train", "my.ini", "--base.rnn-name", "LSTMWrapper")):
        code, _, error = run(capsys, *words)
        assert code == 2
        assert "No policy or wrapper is called 'MyPolicy'" in error
        assert "trust it: --import my_package" in error
    assert not has_run(folder)
    assert "my_package" not in sys.modules


def test_a_run_of_such_a_class_says_what_it_had_imported(folder, capsys):
    guide_files(folder, env="CartPole-v1")
    assert run(capsys, "train", "my.ini", *CONSENT, "--quiet")[0] == 0
    path = str(only_run(folder))
    forget(folder)
    sys.modules.pop("my_package")
    set_default_registry(None)
    for words in (("eval", path), ("train", "--resume", path)):
        code, _, error = run(capsys, *words)
        assert code == 2
        assert "trust them: --import my_package" in error
    assert not has_run(folder)


def test_a_name_that_means_another_class_than_the_package_has_is_refused(folder, capsys):
    guide_files(folder, env="CartPole-v1", policy="Convolutional")
    code, _, error = run(capsys, "train", "my.ini", *CONSENT)
    assert code == 2
    assert "'puffer-policies/Convolutional'" in error
    assert "override=True" in error


def test_a_name_from_elsewhere_is_said_where_the_package_was_not_imported(folder, capsys):
    guide_files(folder, env="CartPole-v1", policy="Default")
    code, _, error = run(capsys, "train", "my.ini", "--quiet")
    assert code == 0
    assert "not imported without --import my_package" in error
    code, _, error = run(capsys, "train", "my.ini", "--quiet", *CONSENT)
    assert code == 0  # it imports Default, and defines none
    assert "note: 'Default'" not in error


def test_a_package_that_lacks_the_class_says_what_it_has(folder, capsys):
    guide_files(folder, env="CartPole-v1", policy="MyPolice")
    code, _, error = run(capsys, "train", "my.ini", *CONSENT)
    assert code == 2
    assert "Did you mean 'MyPolicy'" in error


def test_in_a_program_the_error_says_how_to_register_the_class(folder):
    guide_files(folder, env="CartPole-v1")
    args = pufferl.load_config("my.ini")
    vecenv = pufferl.load_env("my.ini", args)
    with pytest.raises(PolicyNotFound, match="register_policy"):
        pufferl.load_policy(args, vecenv)
    vecenv.close()


# -- consent by a registry file --------------------------------------------------------------------


def test_a_registry_file_names_the_module_and_only_its_own_id_imports_it(folder, capsys):
    (folder / "registry.toml").write_text(OWN)
    code, printed, _ = run(capsys, "list", "Corr*")
    assert (code, has_run(folder)) == (0, False)
    assert "Corridor-v0  my_envs" in printed
    assert json.loads(run(capsys, "list", "--json")[1])["envs"] == {"Corridor-v0": "my_envs"}
    for verb in ("show", "why", "show-config"):
        code, printed, _ = run(capsys, verb, "Corridor-v0")
        assert code == 0
        assert "my_envs" in printed or verb == "show-config"
    code, printed, _ = run(capsys, "show", "Corridor-v0", "--json")
    assert (json.loads(printed)["kind"], json.loads(printed)["module"]) == ("env", "my_envs")
    spaces_of("CartPole-v1")
    with pytest.raises(EnvError, match="'Corridor-v0'"):
        spaces_of("Coridor-v0")
    assert not has_run(folder)
    assert spaces_of("my_envs:Corridor-v0") == spaces_of("Corridor-v0")
    assert has_run(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners are those of POSIX")
def test_a_file_that_is_not_trusted_imports_no_env(folder, capsys):
    (folder / "registry.toml").write_text(OWN)
    folder.chmod(0o777)
    assert "project, not trusted" in run(capsys, "list", "Corr*")[1]
    assert "its code does not run" in run(capsys, "show", "Corridor-v0")[1]
    assert "Its code does not run before you trust it" in run(capsys, "why", "Corridor-v0")[1]
    for name in ("Corridor-v0", "my_envs:Corridor-v0"):
        with pytest.raises(TrustError, match="puffer-policies trust"):
            spaces_of(name)
    assert not has_run(folder)


def test_a_module_that_registers_something_else_is_named(folder):
    (folder / "registry.toml").write_text(OWN.replace("Corridor", "Coridor"))
    with pytest.raises(EnvError, match=r"does not register[\s\S]*'Corridor-v0'"):
        spaces_of("Coridor-v0")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('"a:B-v0" = "my_envs"', "is not the id of an env"),
        ('B-v0 = "my_envs:B"', "is not the name of a module"),
        ("B-v0 = 3", "should be some text"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(folder, line, text):
    (folder / "registry.toml").write_text(f"schema = 1\n[envs]\n{line}\n")
    with pytest.raises(ConfigError, match=rf"registry.toml:3: .*{text}"):
        default_registry()


def test_a_broken_module_stops_its_own_env_alone(folder):
    (folder / "registry.toml").write_text(OWN)
    (folder / "my_envs.py").write_text("1 / 0")
    set_default_registry(None)
    with pytest.raises(PluginError, match=r"registry.toml:3\) failed: ZeroDivisionError"):
        spaces_of("Corridor-v0")
    assert spaces_of("CartPole-v1")
