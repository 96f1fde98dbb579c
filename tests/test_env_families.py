"""Envs of other packages come by id, ready to train on, and a missing package is named."""

from __future__ import annotations

import importlib.util
import logging
import sys

import gymnasium
import numpy as np
import pytest

import puffer_policies.envs.factory
from puffer_policies.config.load import find_shipped, load_config
from puffer_policies.envs.factory import find_env
from puffer_policies.envs.families import (
    bring_family,
    evaluation_kwargs,
    families,
    family_of,
    known_ids,
)
from puffer_policies.errors import EnvError, MissingDependency
from puffer_policies.spaces import observation_kind, spaces_of
from puffer_policies.vector.factory import make_vecenv

pytestmark = pytest.mark.trainer


def only_ours(module):
    if not module.startswith("puffer_policies."):
        pytest.fail(f"{module} was imported")
    return sys.modules[module]


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


ATARI, MINIGRID, MINATAR = needs("ale_py"), needs("minigrid"), needs("minatar")
INSTALLED = [family for family in families() if family.installed]


@pytest.fixture
def missing(monkeypatch):
    """Hide a package, as if it were not installed."""

    def hide(package):
        loaded = [name for name in sys.modules if name.split(".")[0] == package]
        for name in loaded:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def stepped(env, steps=5):
    """Take random steps; the last `Step`."""
    env.single_action_space.seed(0)
    for _ in range(steps):
        step = env.step(np.stack([env.single_action_space.sample() for _ in range(env.num_envs)]))
    return step


@pytest.mark.parametrize("family", families(), ids=lambda each: each.name)
def test_a_missing_package_is_named_with_its_extra(family, missing):
    missing(family.package)
    with pytest.raises(MissingDependency) as told:
        make_vecenv(family.ids[0])
    assert family.ids[0] in told.value.problem
    assert f'pip install "puffer-policies[{family.extra}]"' in told.value.fix


def test_near_names_come_from_families_that_are_not_installed(missing):
    missing("minatar")
    with pytest.raises(MissingDependency, match="'MinAtar/Breakout-v1'"):
        make_vecenv("MinAtar/Braekout-v1")


def test_near_names_come_from_families_where_no_prefix_tells():
    with pytest.raises(EnvError, match="'MiniGrid-Empty-5x5-v0'"):
        spaces_of("MinGrid-Empty-5x5-v0")


@pytest.mark.parametrize("name", ["acme.evil:Env-v0", "os:ALE/Pong-v5", "acme:CartPole-v1"])
@pytest.mark.parametrize("use", [make_vecenv, spaces_of, find_env])
def test_the_name_of_an_env_imports_no_module_of_its_choice(name, use, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", only_ours)
    monkeypatch.setattr(puffer_policies.envs.families, "import_module", only_ours)
    with pytest.raises(EnvError, match="names a module to import"):
        use(name)


def test_a_config_that_names_a_module_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[base]\nenv_name = "acme.evil:Env-v0"\n')
    with pytest.raises(EnvError, match=r"--import acme\.evil"):
        make_vecenv(load_config(str(path)).base.env_name)


@ATARI
def test_a_familys_own_module_may_stand_before_its_ids():
    assert find_env("ale_py:ALE/Pong-v5") == "ALE/Pong-v5"


def test_gymnasiums_own_ids_belong_to_no_family():
    assert family_of("CartPole-v1") is None
    assert find_env("CartPole-v1") == "CartPole-v1"


@pytest.mark.parametrize("family", INSTALLED, ids=lambda each: each.name)
def test_the_ids_we_list_exist(family):
    bring_family(family.ids[0])
    assert [each for each in family.ids if each not in gymnasium.registry] == []
    assert list(family.ids) == sorted(family.ids)


@pytest.mark.parametrize("family", INSTALLED, ids=lambda each: each.name)
def test_one_env_of_each_family_steps_and_has_the_spaces_that_are_told(family):
    env = make_vecenv(family.ids[0], 2)
    observations = env.reset(seed=0)
    step = stepped(env)
    told = spaces_of(family.ids[0])
    assert told.observation == env.single_observation_space
    assert told.action == env.single_action_space
    assert all(told.observation.contains(row) for row in (*observations, *step.observations))
    env.close()


def test_ids_are_listed_without_importing_a_package(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda module: pytest.fail(module))
    assert {"ALE/Pong-v5", "MiniGrid-DoorKey-5x5-v0", "LunarLander-v3"} <= set(known_ids())


@ATARI
def test_atari_shows_four_grey_frames_and_runs_natively():
    env = make_vecenv("ALE/Pong-v5", 2)
    assert env.single_observation_space.shape == (4, 84, 84)
    assert observation_kind(env.single_observation_space) == "image"
    assert type(env.env).__module__.startswith("ale_py")
    env.close()


@ATARI
def test_atari_outside_its_own_vector_env_is_refused_before_it_shows_raw_frames():
    with pytest.raises(EnvError, match=r"vec\.vectorization"):
        make_vecenv("ALE/Pong-v5", vectorization="sync")


def test_evaluations_of_atari_have_the_games_own_scores_and_ends():
    trained = {"reward_clipping": True, "episodic_life": True, "noop_max": 7}
    told = evaluation_kwargs("ALE/Pong-v5", trained)
    assert told == {"reward_clipping": False, "episodic_life": False, "noop_max": 7}
    assert evaluation_kwargs("CartPole-v1", {"a": 1}) == {"a": 1}


@MINIGRID
def test_minigrid_shows_its_view_as_choices_that_hold_every_code():
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    env = make_vecenv("MiniGrid-DoorKey-5x5-v0", 3)
    space = env.single_observation_space
    assert observation_kind(space) == "multidiscrete"
    assert space.nvec[0, 0].tolist() == [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)]
    env.reset(seed=0)
    for _ in range(30):
        observations = stepped(env, 10).observations
        assert all(space.contains(row) for row in observations)
    env.close()


@MINIGRID
def test_minigrid_shows_an_image_on_request():
    codes, image = (
        make_vecenv("MiniGrid-Empty-5x5-v0", env_kwargs=each) for each in ({}, {"view": "image"})
    )
    assert image.single_observation_space.dtype == np.uint8
    np.testing.assert_array_equal(codes.reset(seed=0), image.reset(seed=0))
    with pytest.raises(EnvError, match=r"env\.view is 'pixels'"):
        make_vecenv("MiniGrid-Empty-5x5-v0", env_kwargs={"view": "pixels"})


@MINATAR
def test_minatar_is_an_image_of_bools_and_leaves_the_root_logger_alone():
    before = list(logging.getLogger().handlers)
    env = make_vecenv("MinAtar/Breakout-v1", 2)
    assert env.reset(seed=0).dtype == bool
    assert observation_kind(env.single_observation_space) == "image"
    assert logging.getLogger().handlers == before
    assert logging.getLogger().manager.disable == 0


@needs("mujoco")
def test_mujoco_leaves_no_log_file_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_vecenv("HalfCheetah-v5", 2).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("env_id", ["ALE/Qbert-v5", "MiniGrid-Unlock-v0", "Humanoid-v5"])
def test_ids_without_a_config_of_their_own_take_their_familys_settings(env_id):
    config = load_config(env_id)
    assert config.base.env_name == env_id
    found = find_shipped(env_id)
    assert found is not None
    assert config.train.total_timesteps == found.source.values["train", "total_timesteps"].value


def test_a_config_of_its_own_goes_before_a_familys():
    assert load_config("CartPole-v1") == load_config("cartpole")
    assert find_shipped("Other-v0") is None
