"""Files in PufferLib's manner, read as they stand: each line is either used or named with a reason.

The files in tests/pufferlib_configs are our own, in the forms that PufferLib's files have: several
envs in one, values of each spelling, keys that nothing reads, and those of 2.0 and 4.0.
"""

from __future__ import annotations

import pytest
from pufferlib_files import FILES, FOLDER, load

from puffer_policies.config.ini import IGNORED_KEYS, IGNORED_SECTIONS, OVERWRITTEN, read_ini
from puffer_policies.config.load import ConfigWarning, load_config
from puffer_policies.config.schema import FREE_SECTIONS, SECTIONS, field_types


def named(stem):
    return {each.key for each in load(stem).ignored}


def test_there_are_enough_files():
    assert len(FILES) >= 12


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_used_or_named(path):
    config, file = load(path.stem), read_ini(path)
    told = {*config.origins.values(), *(each.origin for each in config.ignored)}
    keys = [place for place in file.lines if len(place) == 2 and place != ("base", "env_name")]
    lost = [place for place in keys if not told & {file.at(*place), file.at(place[0])}]
    assert lost == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_without_effect_has_a_reason(path):
    for each in load(path.stem).ignored:
        assert str(each).startswith(f"{path}:")
        assert each.reason


def test_all_that_is_wrong_comes_in_one_warning():
    path = FOLDER / "old_train_keys.ini"
    with pytest.warns(ConfigWarning) as caught:
        load_config(str(path), ["--env-name", "CartPole-v1"])
    (warning,) = caught
    text = str(warning.message)
    assert f"{path}:8: train.num_envs has no effect: PufferLib 3.0 does not read it either" in text
    assert f"{path}:10: train.env_batch_size has no effect" in text
    assert f"{path}:15: [sweep] has no effect" in text


def test_the_default_file_gives_its_values():
    train = load("default").train
    assert (train.optimizer, train.precision, train.compile) == ("muon", "float32", False)
    assert (train.vtrace_rho_clip, train.prio_alpha, train.prio_beta0) == (1.0, 0.7, 0.3)
    assert (train.total_timesteps, train.batch_size, train.adam_beta1) == (20_000_000, "auto", 0.94)
    assert named("default") == {
        "base.env_name",
        "base.max_suggestion_cost",
        *(f"vec.{key}" for key in ("backend", "num_workers", "batch_size", "zero_copy", "seed")),
        *(f"train.{key}" for key in ("name", "project", "cpu_offload", "compile_fullgraph")),
        "[sweep]",
        "[sweep.train.learning_rate]",
    }


def test_spellings_have_their_values():
    config = load("spellings")
    assert config.env == {
        "flag": True,
        "other_flag": False,
        "nothing": None,
        "small": 1e-3,
        "count": 1000,
        "offset": -5,
        "sizes": [1, 2, 3],
        "pair": [4, 5],
        "mixed": {"low": 0.0, "high": None},
        "word": "yes",
    }
    train = config.train
    assert [train.anneal_lr, train.norm_adv, train.clip_vloss] == [False, False, True]
    assert (train.torch_deterministic, train.target_kl) == (True, None)
    assert (train.total_timesteps, train.minibatch_size) == (10**9, 2000)
    assert config.base.rnn_name is None
    assert config.ignored == ()


def test_comments_and_empty_values_are_neither_values_nor_errors():
    config = load("comments")
    assert config.env == {"title": "a # that is no comment", "colour": "#fff", "path": "a;b#c"}
    assert config.base.env_name == "Acrobot-v1"
    assert (config.base.policy_name, config.base.rnn_name) == ("Default", None)
    assert (config.train.gamma, config.train.device) == (0.99, "auto")
    assert (config.train.batch_size, config.train.target_kl) == ("auto", None)
    assert named("comments") == {"train.device"}


def test_the_chosen_one_of_several_envs_keeps_its_arguments():
    config = load("many_envs")
    assert config.base.env_name == "Ant-v4"
    assert config.env == {"render_mode": "rgb_array"}
    assert config.base.rnn_name == "Recurrent"


def test_the_wrapper_says_what_use_rnn_contradicts():
    config = load("contradiction")
    assert config.base.rnn_name == "Recurrent"
    assert config.train.use_rnn is None
    assert "train.use_rnn" in named("contradiction")


@pytest.mark.parametrize("stem", ["own_breakout", "bare_name"])
def test_our_env_stands_in_for_its_namesake_without_the_arguments(stem):
    config = load(stem)
    assert config.base.env_name == "puffer_policies/Breakout-v0"
    assert config.env == {}
    assert "env.frameskip" in named(stem)


def test_keys_of_the_next_version_are_named_with_ours():
    reasons = {each.key: each.reason for each in load("four").ignored}
    assert "see train.bptt_horizon" in reasons["train.horizon"]
    assert "see vec.num_envs" in reasons["vec.total_agents"]
    assert "see train.update_epochs" in reasons["train.replay_ratio"]
    assert {"[selfplay]", "[torch]", "train.beta1", "base.rank"} <= reasons.keys()


def test_the_tables_name_nothing_that_is_read():
    read = {f"{name}.{key}" for name, cls in SECTIONS.items() for key in field_types(cls)}
    assert IGNORED_KEYS.keys() & read == OVERWRITTEN
    assert IGNORED_SECTIONS.keys().isdisjoint({*SECTIONS, *FREE_SECTIONS})
