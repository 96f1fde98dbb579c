"""Our policies in Stable-Baselines3 and sb3-contrib, against the libraries themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scenes import (
    CHOICE,
    MASK,
    MEMORIES,
    PAIRS,
    SMALL,
    VECTOR,
    MaskInObservation,
    RandomEnv,
    numbers,
    pair_of,
)

from puffer_policies import Spaces, get_policy, load_policy, save_checkpoint
from puffer_policies.checks import check_policy
from puffer_policies.contract import EPISODE_START
from puffer_policies.errors import BuildError, PolicyNotFound
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import map_nested

pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from puffer_policies.interop.sb3_contrib import PufferRecurrentPolicy
from puffer_policies.interop.stable_baselines3 import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    PufferPolicy,
    as_policy,
)

pytestmark = pytest.mark.interop

STEPS, ENVS = 16, 2
SIZES = {"n_steps": STEPS, "batch_size": STEPS, "n_epochs": 1, "seed": 0, "device": "cpu"}


def envs_of(pair, **options):
    makers = [lambda i=i: RandomEnv(Spaces(*pair_of(pair)), i, **options) for i in range(ENVS)]
    return DummyVecEnv(makers)


def collected(model):
    """Let a model collect one rollout, and return its buffer."""
    _, callback = model._setup_learn(STEPS * ENVS, None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)
    return model.rollout_buffer


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("algorithm", [PPO, A2C], ids=["PPO", "A2C"])
def test_a_rollout_has_the_numbers_of_the_policy(algorithm, pair):
    sizes = SIZES if algorithm is PPO else {"n_steps": STEPS, "seed": 0, "device": "cpu"}
    stack = "MultiInput" if isinstance(pair.observation, spaces.Dict) else "Default"
    model = algorithm(
        "PufferPolicy", envs_of(pair), policy_kwargs={"policy": f"{stack}({SMALL})"}, **sizes
    )
    buffer, layout = collected(model), action_layout(pair.action)
    for batch in buffer.get(STEPS):
        # The library hands over the choices of one Discrete as integers, and all others as stored.
        stored = batch.actions.long().flatten() if layout.kind == "discrete" else batch.actions
        actions = stored.reshape(-1, *layout.policy_shape)
        actions = actions if layout.is_continuous else actions.long()
        observations = batch.observations
        if isinstance(observations, dict):  # the library gives a Discrete an axis of its own
            observations = {**observations, "kind": observations["kind"].flatten()}
        elif isinstance(pair.observation, spaces.Discrete):
            observations = observations.flatten()
        own = numbers(model.policy.policy, observations, actions)
        values, log_prob, entropy = model.policy.evaluate_actions(batch.observations, stored)
        torch.testing.assert_close((values.flatten(), log_prob, entropy), own, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(batch.old_log_prob, own[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(batch.old_values, own[0], rtol=1e-5, atol=1e-5)
    model.learn(STEPS * ENVS)


def sequences(stored):
    """(T, B, *obs) or, of a Discrete, (T, B, 1) -> (B, T, *obs)."""
    leaf = torch.from_numpy(stored.swapaxes(0, 1).copy())
    return leaf.squeeze(-1) if leaf.dtype == torch.int64 else leaf


@pytest.mark.parametrize("stack", MEMORIES)
def test_memories_are_reset_exactly_in_rollouts_and_updates(stack):
    model = RecurrentPPO(
        "PufferRecurrentPolicy",
        envs_of(PAIRS["vector-discrete"]),
        **SIZES,
        policy_kwargs={"policy": stack},
    )
    buffer = collected(model)
    starts = torch.from_numpy(buffer.episode_starts.T.copy()) > 0  # (B, T)
    assert starts[:, 1:].any()
    observations = torch.from_numpy(buffer.observations.swapaxes(0, 1).copy())
    actions = torch.from_numpy(buffer.actions.swapaxes(0, 1).copy()).long().flatten()
    values, log_prob, _ = numbers(
        model.policy.policy, observations, actions, {EPISODE_START: starts}
    )
    torch.testing.assert_close(
        torch.from_numpy(buffer.values.T.copy()).flatten(), values, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        torch.from_numpy(buffer.log_probs.T.copy()).flatten(), log_prob, rtol=1e-5, atol=1e-5
    )
    for batch in buffer.get(10):  # sequences that begin in the middle of episodes, padded
        _, log_prob, _ = model.policy.evaluate_actions(
            batch.observations,
            batch.actions.long().flatten(),
            batch.lstm_states,
            batch.episode_starts,
        )
        valid = batch.mask > 0
        ratio = (log_prob - batch.old_log_prob)[valid].exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    model.learn(STEPS * ENVS)


def test_a_memory_that_starts_from_learned_numbers_starts_there_in_predict():
    model = RecurrentPPO(
        "PufferRecurrentPolicy",
        envs_of(PAIRS["vector-discrete"]),
        **SIZES,
        policy_kwargs={"policy": f"GRUWrapper(Default({SMALL}))"},
    )
    observation = np.full(4, 0.5, np.float32)
    # A state that is not fresh, of a policy that then forgets it.
    _, used = model.predict(np.zeros(4, np.float32))
    _, used = model.predict(observation, used, np.array([False]))
    again = model.predict(observation, used, np.array([True]), deterministic=True)
    first = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(again[0], first[0])
    np.testing.assert_allclose(again[1][0], first[1][0], atol=1e-6)


def test_masks_go_with_a_memory_where_the_observation_holds_them():
    pair = Spaces(spaces.Dict({"at": VECTOR, "mask": MASK}), CHOICE)
    stack = f"GRUWrapper(ActionMaskWrapper(Default({SMALL}), key='mask'))"
    model = RecurrentPPO(
        "PufferRecurrentPolicy",
        envs_of(pair, masked=True),
        policy_kwargs={"policy": stack},
        **SIZES,
    )
    model.learn(2 * STEPS * ENVS)  # the env refuses illegal actions


@pytest.mark.parametrize("stack", [f"Default({SMALL})", f"ActionMaskWrapper(Default({SMALL}))"])
def test_maskable_ppo_takes_no_illegal_action(stack):
    model = MaskablePPO(
        "PufferMaskablePolicy",
        envs_of(PAIRS["vector-discrete"], masked=True),
        policy_kwargs={"policy": stack},
        **SIZES,
    )
    model.learn(2 * STEPS * ENVS)
    mask = np.array([[False, True, False]])
    actions, _ = model.predict(np.zeros((1, 4), np.float32), action_masks=mask)
    assert actions.tolist() == [1]


def test_statistics_of_a_rollout_count_from_the_next_one_on():
    stack = f"NormalizeObservationWrapper(Default({SMALL}))"
    model = PPO(
        "PufferPolicy", envs_of(PAIRS["vector-discrete"]), policy_kwargs={"policy": stack}, **SIZES
    )
    counts = []

    def note(*_):
        counts.append(float(model.policy.policy.state_dict()["moments.0.count"].sum()))
        return True

    model.learn(2 * STEPS * ENVS, callback=note)
    assert counts == [0.0] * STEPS + [float(STEPS * ENVS)] * STEPS


def test_a_model_is_saved_loaded_evaluated_and_its_policy_is_ours(tmp_path):
    model = PPO(
        "PufferPolicy", "CartPole-v1", policy_kwargs={"policy": f"Default({SMALL})"}, **SIZES
    )
    model.learn(STEPS)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", device="cpu")
    observation = np.array([0.1, 0.2, -0.1, 0.3], np.float32)
    assert again.predict(observation, deterministic=True) == model.predict(
        observation, deterministic=True
    )
    model.policy.save(tmp_path / "policy")
    alone = PufferPolicy.load(tmp_path / "policy", device="cpu")
    assert (
        alone.predict(observation, deterministic=True)[0]
        == again.predict(observation, deterministic=True)[0]
    )
    mean, _ = evaluate_policy(again, model.get_env(), n_eval_episodes=1)
    assert mean >= 1
    path = save_checkpoint(tmp_path / "own.safetensors", model.policy.policy, env="CartPole-v1")
    ours = load_policy(path)
    torch.testing.assert_close(ours.state_dict(), model.policy.policy.state_dict())


def refusals():
    yield PPO, "PufferPolicy", "LSTMWrapper(Default)", BuildError, "PufferRecurrentPolicy"
    yield PPO, "PufferPolicy", "ActionMaskWrapper(Default)", BuildError, "MaskablePPO"
    yield PPO, "PufferPolicy", "PrevActionRewardWrapper(Default)", BuildError, "observation"
    yield MaskablePPO, "PufferMaskablePolicy", "LSTMWrapper(Default)", BuildError, "RecurrentPPO"
    yield PPO, "PufferPolicy", "Defualt", PolicyNotFound, "Default"
    recurrent = RecurrentPPO, "PufferRecurrentPolicy"
    yield *recurrent, "LSTMWrapper(ActionMaskWrapper(Default))", BuildError, "key='action_mask'"
    yield *recurrent, "PrevActionRewardWrapper(LSTMWrapper(Default))", BuildError, "observation"


@pytest.mark.parametrize(("algorithm", "name", "stack", "error", "remedy"), list(refusals()))
def test_what_would_silently_be_another_policy_is_refused(algorithm, name, stack, error, remedy):
    env = RandomEnv(PAIRS["vector-discrete"], 0, masked=True)
    with pytest.raises(error) as caught:
        algorithm(name, env, policy_kwargs={"policy": stack}, **SIZES)
    assert remedy in str(caught.value)


def test_the_noise_of_the_library_is_refused():
    with pytest.raises(BuildError, match="use_sde"):
        PPO("PufferPolicy", "Pendulum-v1", use_sde=True, device="cpu")


def test_the_recurrent_policy_serves_policies_without_memory():
    model = RecurrentPPO(
        "PufferRecurrentPolicy",
        envs_of(PAIRS["vector-discrete"]),
        **SIZES,
        policy_kwargs={"policy": f"Default({SMALL})"},
    )
    assert isinstance(model.policy, PufferRecurrentPolicy)
    model.learn(STEPS * ENVS)


def test_choices_that_do_not_begin_at_zero_reach_the_env_and_the_update():
    pair = Spaces(VECTOR, spaces.Box(-1, 2, (2,), np.int64))
    policy = PufferPolicy(*pair_of(pair), lambda _: 1e-3, policy=f"Default({SMALL})")
    observations = torch.zeros(64, 4)
    actions, _, log_prob = policy(observations)
    assert set(actions.flatten().tolist()) == {-1, 0, 1, 2}
    again = policy.evaluate_actions(observations, actions.float())[1]
    torch.testing.assert_close(again, log_prob)


def test_equal_seeds_build_the_weights_of_get_policy():
    torch.manual_seed(0)
    ours = get_policy(f"Default({SMALL})", PAIRS["vector-discrete"])
    torch.manual_seed(0)
    theirs = PufferPolicy(*pair_of(PAIRS["vector-discrete"]), lambda _: 1e-3, f"Default({SMALL})")
    torch.testing.assert_close(ours.state_dict(), theirs.policy.state_dict())
    assert map_nested(torch.is_tensor, tuple(theirs.parameters()))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_a_policy_of_the_library_has_its_numbers_here(pair, shared):
    observation, action = pair_of(pair)
    cls = MultiInputPolicy if isinstance(observation, spaces.Dict) else MlpPolicy
    if len(observation.shape or ()) == 3:  # as VecTransposeImage makes it
        cls, observation = CnnPolicy, spaces.Box(0, 255, (3, 36, 36), np.uint8)
    theirs = cls.args[0](observation, action, lambda _: 1e-3, share_features_extractor=shared)
    ours, layout = as_policy(theirs), action_layout(action)
    assert len(ours.state_dict()) == len(list(ours.parameters()))  # no weight has two names
    seen = [observation.sample() for _ in range(6)]
    batch = map_nested(lambda *rows: torch.from_numpy(np.stack(rows)), *map(plain, seen))
    taken = torch.from_numpy(np.stack([action.sample() for _ in range(6)]))
    stored = taken.float() if layout.kind == "multibinary" else taken  # as its buffer does
    values, log_prob, entropy = theirs.evaluate_actions(batch, stored)
    number = torch.float32 if layout.is_continuous else torch.int64
    expected = numbers(ours, batch, taken.reshape(-1, *layout.policy_shape).to(number))
    torch.testing.assert_close((values.flatten(), log_prob, entropy), expected)


def plain(observation):
    """Return a Dict's observation as a dict: gymnasium's samples may be of another class."""
    return dict(observation) if isinstance(observation, dict) else observation


def test_a_stock_policy_is_checked_by_a_short_name():
    report = check_policy("sb3:MlpPolicy", PAIRS["vector-discrete"], select="B9,S1,S5,A1")
    assert report.counts["passed"] == 4


def test_noise_that_depends_on_the_state_has_no_form_here():
    policy = MlpPolicy.args[0](VECTOR, spaces.Box(-1, 1, (2,)), lambda _: 1e-3, use_sde=True)
    with pytest.raises(BuildError, match="use_sde"):
        as_policy(policy)


# As rl-zoo3 has them for CartPole.
PPO_OF_THE_ZOO = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "learning_rate": lambda left: 1e-3 * left,
    "clip_range": lambda left: 0.2 * left,
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("algorithm", "settings", "steps"),
    [(PPO, PPO_OF_THE_ZOO, 100_000), (A2C, {}, 200_000)],
    ids=["PPO", "A2C"],
)
def test_cartpole_is_solved(algorithm, settings, steps, note_return):
    envs = make_vec_env("CartPole-v1", 8, seed=0)
    model = algorithm("PufferPolicy", envs, seed=0, device="cpu", **settings)
    model.learn(steps)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=20)
    trainer = f"Stable-Baselines3 {algorithm.__name__}"
    note_return(mean, least=400, trainer=trainer, policy="Default", env="CartPole-v1", steps=steps)


@pytest.mark.exhaustive
def test_masked_recall_is_solved_by_a_memory_with_a_mask(note_return):
    envs = DummyVecEnv([MaskInObservation] * 16)
    stack = "GRUWrapper(ActionMaskWrapper(Default(hidden_size=64), key='mask'))"
    model = RecurrentPPO(
        "PufferRecurrentPolicy",
        envs,
        policy_kwargs={"policy": stack},
        seed=0,
        device="cpu",
        n_steps=64,
        batch_size=256,
        n_epochs=4,
        learning_rate=1e-3,
        ent_coef=0.01,
    )
    model.learn(150_000)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=100, warn=False)
    trainer, env = "sb3-contrib RecurrentPPO", "masked recall"
    note_return(mean, least=0.9, trainer=trainer, policy=stack, env=env, steps=150_000)
