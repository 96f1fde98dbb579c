"""Evaluation: whole episodes, none favored, memory from its start, one result for one seed."""

from __future__ import annotations

import json
import math
import sys

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from imageio.v3 import imread
from plain_policies import Plain, Split
from training_toys import MODES, Clock, Guess, clocks, guesses

from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.load import load_config
from puffer_policies.config.schema import EvalConfig
from puffer_policies.envs.breakout import BreakoutEnv
from puffer_policies.errors import (
    CheckpointError,
    ConfigError,
    EnvError,
    MissingDependency,
    TrainingError,
)
from puffer_policies.files import file_of_run
from puffer_policies.hub.location import checkpoint_of
from puffer_policies.runs import video
from puffer_policies.runs.evaluate import Evaluation, evaluate, load_trained_policy
from puffer_policies.runs.statistics import interval_kind, mean_interval
from puffer_policies.runs.video import record_video, require_video
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.wrappers.memory import LSTMWrapper


@pytest.mark.parametrize("mode", MODES)
def test_short_episodes_are_not_favored(mode):
    env = clocks(mode, [[(1, "t")], [(4, "c")]])
    told = evaluate(Plain(env), env, EvalConfig(episodes=6))
    assert told.lengths == (1, 1, 1, 4, 4, 4)
    assert told.returns == (1, 1, 1, 10, 10, 10)
    assert told.mean == 5.5


def test_an_uneven_number_of_episodes_is_played_exactly():
    env = clocks(MODES[0], [[(1, "t")], [(2, "t")], [(3, "t")]])
    assert evaluate(Plain(env), env, EvalConfig(episodes=5)).lengths == (1, 1, 2, 2, 3)


@pytest.mark.parametrize("mode", MODES)
def test_memory_starts_anew_with_each_episode(mode):
    starts = []

    class Spy(LSTMWrapper):
        def forward_eval(self, observations, state=None):
            starts.extend(zip(observations[:, 1].tolist(), state["episode_start"], strict=True))
            return super().forward_eval(observations, state)

    env = clocks(mode, [[(2, "t"), (3, "c")]])
    evaluate(Spy(env, Split(env)), env, EvalConfig(episodes=5))
    assert all((time == 0) == bool(start) for time, start in starts)


@pytest.mark.parametrize("deterministic", [True, False])
def test_one_seed_gives_one_result(deterministic):
    torch.manual_seed(0)
    env = guesses()
    policy = Plain(env)
    config = EvalConfig(episodes=20, deterministic=deterministic, seed=4)
    assert evaluate(policy, env, config) == evaluate(policy, guesses(), config)


def test_a_state_that_holds_observations_is_no_view_of_the_envs_array():
    steps = []

    class Recalls(Plain):
        def initial_state(self, batch_size, device=None):
            return {"seen": torch.zeros(batch_size, 2)}

        def forward_eval(self, observations, state):
            steps.append((state["seen"][0, 1].item(), observations[0, 1].item()))
            state["seen"] = observations
            return super().forward_eval(observations)

    # Envs without a copy write each observation over the last.
    env = GymVecEnv(SyncVectorEnv([lambda: Clock([(3, "t")])], copy=False))
    evaluate(Recalls(env), env, EvalConfig(episodes=1))
    assert steps == [(0, 0), (0, 1), (1, 2)]


def test_the_likeliest_action_is_taken():
    env = guesses()
    policy = Plain(env)
    with torch.no_grad():
        policy.action_head.weight.zero_()
        policy.action_head.bias.copy_(torch.tensor([0.0, 1e-3]))
    actions = []
    step, env.step = env.step, lambda chosen: actions.extend(chosen.tolist()) or step(chosen)
    evaluate(policy, env, EvalConfig(episodes=4))
    assert set(actions) == {1}


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_put_back(training):
    env = guesses()
    policy = Plain(env).train(training)
    modes = []
    policy.register_forward_hook(lambda *_: None)
    policy.net.register_forward_hook(lambda module, *_: modes.append(module.training))
    evaluate(policy, env, EvalConfig(episodes=1))
    assert not any(modes)
    assert policy.training is training


def test_each_part_of_a_policy_is_put_back_into_its_own_mode():
    env = guesses()
    policy = Plain(env)
    policy.net.eval()  # a frozen part of a policy in training
    evaluate(policy, env, EvalConfig(episodes=1))
    assert (policy.training, policy.net.training, policy.action_head.training) == (
        True,
        False,
        True,
    )


def test_an_endless_env_ends_at_the_limit_and_says_how_many_episodes_ended():
    env = clocks(MODES[0], [[(1000, "t")], [(10, "t")]])
    told = evaluate(Plain(env), env, EvalConfig(episodes=4, max_steps=50))
    assert told.lengths == (10, 10)
    assert (told.to_dict()["episodes"], told.to_dict()["episodes_asked"]) == (2, 4)
    assert "2 of 4 ended within 50 steps" in told.fields()["episodes"]
    assert "eval.max_steps" in told.fields()["episodes"]


def test_no_episode_at_all_is_said_without_numbers():
    env = clocks(MODES[0], [[(1000, "t")]])
    told = evaluate(Plain(env), env, EvalConfig(episodes=1, max_steps=50))
    assert math.isnan(told.mean)
    assert json.loads(json.dumps(told.to_dict(), allow_nan=False))["mean"] is None
    assert list(told.fields()) == ["episodes"]


def played(*returns, episodes=None):
    return Evaluation(
        returns=returns,
        lengths=(1,) * len(returns),
        episodes=len(returns) if episodes is None else episodes,
        seed=0,
        deterministic=True,
        max_steps=10,
    )


def test_one_episode_has_no_interval_and_equal_ones_have_a_point():
    assert played(3.7).interval is None
    assert played(*[0.1] * 7).interval == (0.1, 0.1)


def test_few_values_have_their_range_and_it_is_called_so():
    few = played(3.0, 1.0, 2.0)
    assert few.interval == (1.0, 3.0)
    assert few.to_dict()["interval_kind"] == "range"
    assert few.fields()["return"] == "2.00, range [1.00, 3.00]"
    many = played(*map(float, range(6)))
    low, high = many.interval
    assert 0 < low < many.mean < high < 5
    assert many.to_dict()["interval_kind"] == "95 % CI"
    assert many.fields()["return"] == f"2.50, 95 % CI [{low:.2f}, {high:.2f}]"


@pytest.mark.parametrize("number", [2, 3, 5, 6])
def test_an_interval_is_called_95_percent_only_if_the_range_of_the_values_can_be_one(number):
    values = np.random.default_rng(0).normal(size=(20_000, number))
    coverage = np.mean((values.min(1) <= 0) & (values.max(1) >= 0))
    assert coverage == pytest.approx(1 - 2 / 2**number, abs=0.01)
    assert (interval_kind(number) == "95 % CI") == (coverage >= 0.95)


def test_the_interval_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    returns = tuple(np.random.default_rng(1).gamma(2.0, 50.0, size=40).tolist())
    other = stats.bootstrap((returns,), np.mean, n_resamples=20_000, method="percentile", rng=2)
    expected = (other.confidence_interval.low, other.confidence_interval.high)
    width = expected[1] - expected[0]
    assert played(*returns).interval == pytest.approx(expected, abs=0.05 * width)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(3)
    intervals = [mean_interval(generator.normal(size=40).tolist()) for _ in range(200)]
    held = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.88 <= held <= 0.99


def trained_on(env_id, folder):
    """Write what a run leaves of an untrained policy."""
    config = load_config(env_id, ["--eval.episodes", "2"])
    env = make_vecenv(config.base.env_name)
    policy = get_policy("Default", env)
    save_checkpoint(folder / "latest.safetensors", policy, env=env, config=config.to_args())
    env.close()
    return folder


def test_a_video_shows_every_step_of_the_episode(tmp_path):
    trained = load_trained_policy(trained_on("breakout", tmp_path), overrides={"max_steps": 30})
    film = record_video(trained.policy, trained.config, tmp_path / "film.mp4")
    number, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "film.mp4"))
    assert number == film.frames == 31
    assert seconds == pytest.approx(31 / 30, abs=0.05)


def test_a_gif_moves(tmp_path):
    trained = load_trained_policy(trained_on("breakout", tmp_path), overrides={"max_steps": 10})
    record_video(trained.policy, trained.config, tmp_path / "film.gif")
    pictures = imread(tmp_path / "film.gif", index=None)
    assert (pictures[0] != pictures[-1]).any()


class Drawn(Clock):
    """Is drawn as its frames, one after the other; a frame may be an error to raise."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    frames = ()

    def __init__(self, render_mode=None):
        super().__init__([(len(self.frames) - 1, "t")])
        self.render_mode = render_mode

    def render(self):
        frame = self.frames[min(self.time, len(self.frames) - 1)]
        if isinstance(frame, Exception):
            raise frame
        return frame


@pytest.fixture
def film(tmp_path, monkeypatch):
    """Films frames of an env as a .gif, and returns the pictures in it."""

    def shoot(*frames, metadata=None):
        monkeypatch.setattr(Drawn, "frames", frames)
        monkeypatch.setattr(Drawn, "metadata", {**Drawn.metadata, **(metadata or {})})
        path = tmp_path / "film.gif"
        config = load_config("Drawn-v0", ["--eval.max-steps", str(len(frames) - 1)])
        vecenv = make_vecenv("Drawn-v0")
        policy = Plain(vecenv)
        vecenv.close()
        try:
            record_video(policy, config, path)
        except EnvError:
            assert not path.exists()
            raise
        return imread(path, index=None)[..., :3].astype(int)

    gymnasium.register("Drawn-v0", Drawn, disable_env_checker=True)
    yield shoot
    del gymnasium.registry["Drawn-v0"]


LIGHT = np.full((4, 6, 3), 200, np.uint8)


@pytest.mark.parametrize(
    "light",
    [LIGHT, LIGHT / 255, LIGHT.astype(float), LIGHT[..., :1], LIGHT[..., 0], LIGHT.astype(int)],
    ids=["uint8", "floats to 1", "floats to 255", "one channel", "no channel", "int"],
)
def test_pictures_of_every_kind_make_the_same_film(light, film):
    first, second = film(light * 0, light)
    assert (first == 0).all()
    assert (abs(second - 200) <= 4).all()


@pytest.mark.parametrize("fps", [0, -1, float("nan"), "fast", None])
def test_a_rate_that_is_none_is_replaced_by_the_default(fps, film):
    assert len(film(LIGHT, LIGHT // 2, metadata={"render_fps": fps})) == 2


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (LIGHT[:2], "has 2 x 6 pixels, those before it 4 x 6"),
        (ZeroDivisionError("half a pixel"), "ZeroDivisionError: half a pixel"),
        (None, "found NoneType"),
        (np.zeros((4, 6, 2)), r"found float64 \(4, 6, 2\)"),
        (LIGHT[:0], "without pixels"),
    ],
)
def test_what_makes_no_film_is_an_error_in_words(second, text, film):
    with pytest.raises(EnvError, match=text):
        film(LIGHT, second)


def test_an_env_that_can_not_be_drawn_says_so(tmp_path, monkeypatch):
    trained = load_trained_policy(trained_on("breakout", tmp_path))
    monkeypatch.setitem(BreakoutEnv.metadata, "render_modes", [])
    with pytest.raises(EnvError, match="no render mode 'rgb_array'"):
        record_video(trained.policy, trained.config, tmp_path / "film.gif")
    assert not (tmp_path / "film.gif").exists()


def test_envs_of_several_agents_are_not_filmed(tmp_path, monkeypatch):
    trained = load_trained_policy(trained_on("breakout", tmp_path))
    monkeypatch.setattr(video, "make_vecenv", lambda *_, **__: guesses_without_parts())
    with pytest.raises(EnvError, match="no single gymnasium env inside"):
        record_video(trained.policy, trained.config, tmp_path / "film.gif")


def guesses_without_parts():
    env = guesses()
    env.env.envs = []
    return env


@pytest.mark.parametrize("path", ["film.avi", "nowhere/film.gif", "."])
def test_a_video_that_can_not_be_written_is_refused_before_playing(path, project):
    with pytest.raises(ConfigError, match="No video can be written"):
        require_video(path)


def test_without_imageio_the_extra_is_named(monkeypatch, project):
    monkeypatch.setitem(sys.modules, "imageio", None)
    with pytest.raises(MissingDependency, match=r"puffer-policies\[video\]"):
        require_video("film.gif")


def test_a_folder_stands_for_its_last_checkpoint_and_for_its_best(tmp_path):
    with pytest.raises(CheckpointError, match="holds no latest"):
        checkpoint_of(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    for name in ("latest.safetensors", "trainer.safetensors"):
        with pytest.raises(CheckpointError, match="The run has saved nothing so far"):
            file_of_run(tmp_path, name)
    (tmp_path / "latest.safetensors").touch()
    assert checkpoint_of(tmp_path).name == "latest.safetensors"
    with pytest.raises(CheckpointError, match=r"It holds latest\.safetensors"):
        checkpoint_of(tmp_path, best=True)
    (tmp_path / "best.safetensors").touch()
    assert checkpoint_of(tmp_path, best=True).name == "best.safetensors"
    with pytest.raises(CheckpointError, match="not a run with a best one"):
        checkpoint_of(tmp_path / "best.safetensors", best=True)
    with pytest.raises(CheckpointError, match=f"Did you mean '{tmp_path.name}'"):
        checkpoint_of(tmp_path.with_name(f"{tmp_path.name}x"))


@pytest.mark.parametrize("deterministic", [True, False])
def test_weights_that_are_no_numbers_end_it(deterministic):
    env = guesses()
    policy = Plain(env)
    with torch.no_grad():
        policy.action_head.bias[0] = math.nan
    with pytest.raises(TrainingError, match="not a finite number"):
        evaluate(policy, env, EvalConfig(episodes=1, deterministic=deterministic))


def test_a_reward_that_is_no_number_ends_it(monkeypatch):
    env = guesses()
    step = Guess.step

    def paying_nan(guess, action):
        observation, _, *rest = step(guess, action)
        return observation, math.nan, *rest

    monkeypatch.setattr(Guess, "step", paying_nan)
    with pytest.raises(TrainingError, match="reward"):
        evaluate(Plain(env), env, EvalConfig(episodes=1))
