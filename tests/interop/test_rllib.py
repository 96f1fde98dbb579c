"""Our policies as modules of RLlib, against the library itself: ``make test-rllib``."""

from __future__ import annotations

import copy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scenes import (
    CHOICE,
    MEMORIES,
    PAIRS,
    SMALL,
    VECTOR,
    MaskInObservation,
    RandomEnv,
    numbers,
    pair_of,
)

from puffer_policies import Spaces, load_policy, save_checkpoint
from puffer_policies.checks import check_policy
from puffer_policies.contract import EPISODE_START
from puffer_policies.errors import BuildError, PolicyNotFound
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import map_nested

pytest.importorskip("ray")

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDiagGaussian
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from puffer_policies.interop.rllib import PufferModule, as_policy

# Ray itself uses what Python and gymnasium have deprecated.
pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def module_of(pair, stack, **options):
    config = {"policy": stack, **options}
    return PufferModule(
        observation_space=pair.observation, action_space=pair.action, model_config=config
    )


SPECIAL = {
    "discrete-from-5": Spaces(VECTOR, spaces.Discrete(3, start=5)),
    "box-of-integers": Spaces(VECTOR, spaces.Box(-1, 2, (2,), np.int64)),
    "unbounded": Spaces(VECTOR, spaces.Box(-np.inf, np.inf, (2,), np.float32)),
    "image-of-actions": Spaces(VECTOR, spaces.Box(-2.0, 2.0, (2, 3), np.float32)),
}


def batch_of(pair, rows):
    observation = copy.deepcopy(pair.observation)
    seen = [observation.sample() for _ in range(rows)]
    seen = [dict(each) if isinstance(each, dict) else each for each in seen]
    return map_nested(lambda *leaves: torch.from_numpy(np.stack(leaves)), *seen)


@pytest.mark.parametrize("pair", [*PAIRS.values(), *SPECIAL.values()], ids=[*PAIRS, *SPECIAL])
def test_actions_and_their_numbers_are_those_of_the_policy(pair):
    stack = "MultiInput" if isinstance(pair.observation, spaces.Dict) else "Default"
    module, layout = module_of(pair, f"{stack}({SMALL})"), action_layout(pair.action)
    obs = batch_of(pair, 6)
    outputs = module.forward_exploration({Columns.OBS: obs})
    drawn = module.get_exploration_action_dist_cls().from_logits(
        outputs[Columns.ACTION_DIST_INPUTS]
    )
    actions = drawn.sample()
    own = module.form.from_library(actions)
    values, log_prob, entropy = numbers(module.policy, obs, own)
    torch.testing.assert_close((drawn.logp(actions), drawn.entropy()), (log_prob, entropy))
    train = module.forward_train({Columns.OBS: obs})
    torch.testing.assert_close(
        module.compute_values({}, embeddings=train[Columns.EMBEDDINGS]), values
    )
    torch.testing.assert_close(module.compute_values({Columns.OBS: obs}), values)
    likeliest = drawn.to_deterministic().sample()
    assert likeliest.shape == actions.shape == (6, *layout.shape)
    assert drawn.kl(drawn).abs().max() < 1e-6
    other = module_of(pair, f"{stack}({SMALL})").forward_exploration({Columns.OBS: obs})
    numbers_of_other = other[Columns.ACTION_DIST_INPUTS]
    assert (drawn.kl(type(drawn).from_logits(numbers_of_other)) >= -1e-6).all()


def test_the_divergence_of_a_normal_and_of_choices_is_that_of_the_library():
    pairs = PAIRS["vector-discrete"], PAIRS["discrete-box"]
    for pair, cls in zip(pairs, (TorchCategorical, TorchDiagGaussian), strict=True):
        ours = module_of(pair, f"Default({SMALL})").action_dist_cls
        first, second = torch.randn(2, 5, cls.required_input_dim(pair.action))
        expected = cls.from_logits(first).kl(cls.from_logits(second))
        torch.testing.assert_close(ours.from_logits(first).kl(ours.from_logits(second)), expected)
        assert ours.required_input_dim(pair.action) == cls.required_input_dim(pair.action)


class Scene(RandomEnv):
    """A random env as RLlib builds it, which notes what it was sent."""

    def __init__(self, config):
        pair = config["pair"]
        super().__init__(Spaces(*pair_of(pair)), 0, masked=config.get("masked", False))

    def step(self, action):
        self.taken.append(np.asarray(action))
        return super().step(action)


MODULE = "default_policy"
"""The library's name for the module of a single agent."""


def config_of(env, stack, *, envs=2, env_config=None, options=None, **training):
    options = {"policy": stack, **(options or {})}
    spec = RLModuleSpec(module_class=PufferModule, model_config=options)
    return (
        PPOConfig()
        .environment(env, env_config=env_config or {})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
        .learners(num_learners=0)
        .debugging(seed=0)
        .rl_module(rl_module_spec=spec)
        .training(**{"train_batch_size": 64, "minibatch_size": 64, "num_epochs": 1, **training})
    )


def runner_and_learner(pair, stack, *, masked=False, options=None):
    """Return what plays and what learns, without an algorithm, which would start a cluster."""
    env_config = {"pair": pair, "masked": masked}
    config = config_of(Scene, stack, env_config=env_config, options=options)
    runner = SingleAgentEnvRunner(config=config)
    learner = config.build_learner(spaces=runner.get_spaces())
    learner.module[MODULE].set_state(runner.module.get_state())
    return runner, learner


def learned_through(learner, episodes):
    """Return the batch that a learner makes of episodes, and what its module finds in it."""
    batch = learner._learner_connector(
        rl_module=learner.module,
        batch={},
        episodes=copy.deepcopy(episodes),
        shared_data={},
        metrics=None,
    )[MODULE]
    module = learner.module[MODULE]
    outputs = module.forward_train(batch)
    chances = module.get_train_action_dist_cls().from_logits(outputs[Columns.ACTION_DIST_INPUTS])
    change = chances.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]
    valid = batch[Columns.LOSS_MASK]
    return batch, change[valid].exp(), chances


@pytest.mark.parametrize("stack", [f"Default({SMALL})", *MEMORIES])
def test_rollouts_and_updates_have_the_numbers_of_the_policy(stack):
    pair = PAIRS["vector-discrete"]
    runner, learner = runner_and_learner(pair, stack, options={"max_seq_len": 3})
    for _ in range(2):  # the second rollout begins in the midst of episodes
        episodes = runner.sample(num_timesteps=46, random_actions=False)
        for episode in episodes:
            if episode.t_started > 0:
                continue
            seen = torch.from_numpy(np.stack(list(episode.get_observations())[:-1]))
            taken = torch.from_numpy(np.stack(list(episode.get_actions()))).long()
            state = {EPISODE_START: torch.arange(len(seen)).unsqueeze(0) == 0}
            rows = seen.unsqueeze(0) if stack in MEMORIES else seen
            _, log_prob, _ = numbers(runner.module.policy, rows, taken, state)
            stored = torch.tensor(
                np.array(list(episode.get_extra_model_outputs(Columns.ACTION_LOGP)))
            )
            torch.testing.assert_close(stored.float(), log_prob, rtol=1e-5, atol=1e-5)
    assert episodes[0].t_started > 0
    _, ratio, _ = learned_through(learner, episodes)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    before = {key: each.clone() for key, each in learner.module[MODULE].state_dict().items()}
    learner.update(episodes=episodes)
    after = learner.module[MODULE].state_dict()
    assert all(not torch.equal(after[key], before[key]) for key in after if "weight" in key)


def test_masks_go_with_a_memory_where_the_observation_holds_them():
    mask = spaces.Box(0, 1, (3,), np.int8)
    pair = Spaces(spaces.Dict({"at": VECTOR, "mask": mask}), CHOICE)
    stack = f"GRUWrapper(ActionMaskWrapper(Default({SMALL}), key='mask'))"
    runner, learner = runner_and_learner(pair, stack, masked=True, options={"max_seq_len": 5})
    episodes = runner.sample(num_timesteps=64, random_actions=False)  # the env refuses others
    _, ratio, chances = learned_through(learner, episodes)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    assert chances.kl(chances).isfinite().all()
    learner.update(episodes=episodes)
    assert all(each.isfinite().all() for each in learner.module[MODULE].parameters())


@pytest.mark.parametrize("stack", ["Default", "SquashedGaussianWrapper(Default)"])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "as-they-are"])
def test_the_env_gets_the_action_of_the_policy_whatever_the_library_makes_of_it(stack, normalize):
    pair = Spaces(VECTOR, spaces.Box(np.array([-1.0, 2.0]), np.array([3.0, 2.5]), dtype=np.float32))
    stack = stack.replace("Default", f"Default({SMALL})")
    config = config_of(
        Scene, stack, envs=1, env_config={"pair": pair}, options={"normalize_actions": normalize}
    )
    config.normalize_actions, config.clip_actions = normalize, True
    runner = SingleAgentEnvRunner(config=config)
    (episode,) = runner.sample(num_episodes=1, random_actions=False)
    stored = torch.from_numpy(np.stack(list(episode.get_actions())))
    own = runner.module.form.from_library(stored).numpy()
    low, high = pair.action.low, pair.action.high
    received = np.stack(runner.env.unwrapped.envs[0].unwrapped.taken[-len(own) :])
    np.testing.assert_allclose(received, np.clip(own, low, high), rtol=1e-5, atol=1e-5)
    if "Squashed" in stack:
        assert ((low - 1e-5 <= own) & (own <= high + 1e-5)).all()
    seen = torch.from_numpy(np.stack(list(episode.get_observations())[:-1]))
    log_prob = numbers(runner.module.policy, seen, torch.from_numpy(own))[1]
    logp = torch.tensor(np.array(list(episode.get_extra_model_outputs(Columns.ACTION_LOGP))))
    torch.testing.assert_close(logp.float(), log_prob, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SPECIAL)
def test_choices_and_numbers_of_every_kind_reach_the_env_and_the_update(name):
    runner, learner = runner_and_learner(SPECIAL[name], f"GRUWrapper(Default({SMALL}))")
    episodes = runner.sample(num_timesteps=32, random_actions=False)
    _, ratio, _ = learned_through(learner, episodes)  # rows of padding hold zeros
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-4)
    learner.update(episodes=episodes)


def test_a_module_is_saved_and_loaded_and_its_policy_is_ours(tmp_path):
    pair = PAIRS["vector-discrete"]
    module = module_of(pair, f"GRUWrapper(Default({SMALL}))")
    module.save_to_path(tmp_path / "module")
    again = PufferModule.from_checkpoint(tmp_path / "module")
    obs = batch_of(pair, 3).unsqueeze(1)
    state = {
        key: torch.from_numpy(each).repeat(3, 1) for key, each in module.get_initial_state().items()
    }
    batch = {Columns.OBS: obs, Columns.STATE_IN: state}
    outputs = [each.forward_inference(batch) for each in (module, again)]
    torch.testing.assert_close(*(each[Columns.ACTION_DIST_INPUTS] for each in outputs))
    path = save_checkpoint(tmp_path / "own.safetensors", module.policy, env=pair)
    torch.testing.assert_close(load_policy(path).state_dict(), module.policy.state_dict())


def refusals():
    yield "PrevActionRewardWrapper(Default)", {}, BuildError, "observation"
    yield "ActionMaskWrapper(Default)", {}, BuildError, "key='action_mask'"
    yield "NormalizeObservationWrapper(Default)", {}, BuildError, "MeanStdFilter"
    yield "Defualt", {}, PolicyNotFound, "Default"
    yield "Default", {"fcnet_hiddens": [64]}, BuildError, "hidden_size"


@pytest.mark.parametrize(("stack", "options", "error", "remedy"), list(refusals()))
def test_what_would_silently_be_another_policy_is_refused(stack, options, error, remedy):
    with pytest.raises(error) as caught:
        module_of(PAIRS["vector-discrete"], stack, **options)
    assert remedy in str(caught.value)


def test_actions_with_a_gradient_are_refused():
    module = module_of(PAIRS["discrete-box"], f"Default({SMALL})")
    with pytest.raises(BuildError, match="PPO"):
        module.action_dist_cls.from_logits(torch.zeros(1, 4)).rsample()


# -- from there to here ----------------------------------------------------------------------------

OF_VECTORS = {
    "discrete": Spaces(VECTOR, CHOICE),
    "multidiscrete": Spaces(VECTOR, spaces.MultiDiscrete([3, 2])),
    "box": Spaces(VECTOR, spaces.Box(-1.0, 3.0, (2,), np.float32)),
}


def stock_module(pair, **options):
    return DefaultPPOTorchRLModule(
        observation_space=pair.observation,
        action_space=pair.action,
        inference_only=False,
        model_config={**asdict(DefaultModelConfig(fcnet_hiddens=[8])), **options},
        catalog_class=PPOCatalog,
    )


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("pair", OF_VECTORS.values(), ids=OF_VECTORS)
def test_a_module_of_the_library_has_its_numbers_here(pair, shared):
    module = stock_module(pair, vf_share_layers=shared)
    ours, obs = as_policy(module), batch_of(pair, 6)
    outputs = module.forward_train({Columns.OBS: obs})
    theirs = module.get_train_action_dist_cls().from_logits(outputs[Columns.ACTION_DIST_INPUTS])
    taken = theirs.sample()
    values = module.compute_values({Columns.OBS: obs})
    real = taken.is_floating_point()
    half = torch.tensor(2.0 if real else 1.0)
    members = 1 + half * taken if real else taken
    # A density in the units of the env is that of the library over their ratio.
    dense = taken.shape[-1] * half.log() if real else torch.zeros(())
    expected = values, theirs.logp(taken) - dense, theirs.entropy() + dense
    torch.testing.assert_close(numbers(ours, obs, members), expected, rtol=1e-5, atol=1e-5)


def test_a_stock_module_is_checked_by_a_short_name():
    report = check_policy(
        "rllib:DefaultPPOTorchRLModule", PAIRS["vector-discrete"], select="B9,S1,S5,A1"
    )
    assert report.counts["passed"] == 4


def test_modules_without_a_form_here_are_refused():
    pair = PAIRS["vector-discrete"]
    with pytest.raises(BuildError, match="memory"):
        as_policy(stock_module(pair, use_lstm=True, max_seq_len=4))
    with pytest.raises(BuildError, match="PufferModule"):
        as_policy(module_of(pair, f"Default({SMALL})"))


# -- algorithms ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Start Ray in a small form, without which no algorithm is built."""
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


def greedy_return(algorithm, episodes):
    played = algorithm.env_runner.sample(num_episodes=episodes, explore=False)
    return sum(each.get_return() for each in played) / len(played)


@pytest.mark.exhaustive
def test_cartpole_is_solved(cluster, note_return):
    sizes = {"train_batch_size": 2048, "minibatch_size": 256, "num_epochs": 8}
    settings = {"gamma": 0.98, "lambda_": 0.9, "clip_param": 0.2, "grad_clip": 0.5}
    algorithm = config_of(
        "CartPole-v1",
        "Default(hidden_size=64)",
        envs=16,
        lr=[[0, 1e-3], [100_000, 1e-4]],
        use_kl_loss=False,
        vf_clip_param=1000.0,
        vf_loss_coeff=0.01,
        **sizes,
        **settings,
    ).build_algo()
    for _ in range(49):
        algorithm.train()
    mean = greedy_return(algorithm, 20)
    algorithm.stop()
    row = {"trainer": "RLlib PPO", "policy": "Default(hidden_size=64)", "env": "CartPole-v1"}
    note_return(mean, least=400, steps=49 * 2048, **row)


class Recall(MaskInObservation):
    """As RLlib builds it."""

    def __init__(self, config):
        super().__init__()


@pytest.mark.exhaustive
def test_masked_recall_is_solved_by_a_memory_with_a_mask(cluster, note_return, tmp_path):
    stack = "GRUWrapper(ActionMaskWrapper(Default(hidden_size=64), key='mask'))"
    algorithm = config_of(
        Recall,
        stack,
        envs=16,
        lr=1e-3,
        use_kl_loss=False,
        clip_param=0.2,
        vf_loss_coeff=0.5,
        entropy_coeff=0.01,
        train_batch_size=1024,
        minibatch_size=256,
        num_epochs=4,
    ).build_algo()
    for _ in range(25):
        algorithm.train()
    mean = greedy_return(algorithm, 100)
    algorithm.save_to_path(tmp_path / "algorithm")
    module = PufferModule.from_checkpoint(
        tmp_path / "algorithm" / "learner_group" / "learner" / "rl_module" / MODULE
    )
    torch.testing.assert_close(module.state_dict(), algorithm.get_module().state_dict())
    algorithm.stop()
    row = {"trainer": "RLlib PPO", "policy": stack, "env": "masked recall"}
    note_return(mean, least=0.9, steps=25 * 1024, **row)
