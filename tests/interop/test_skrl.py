"""Our policies in skrl, against the library itself, and its models as policies of ours."""

from __future__ import annotations

import gymnasium
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
    RandomEnv,
    numbers,
    pair_of,
    same_step_envs,
)
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from puffer_policies import Spaces, load_policy, save_checkpoint
from puffer_policies.checks import check_policy
from puffer_policies.contract import EPISODE_START
from puffer_policies.envs.recall import RepeatPreviousEnv
from puffer_policies.errors import BuildError, IncompatibleSpace, PolicyNotFound
from puffer_policies.nn.samples import random_observations
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import map_nested

pytest.importorskip("skrl")

from skrl.agents.torch.a2c import A2C, A2C_RNN
from skrl.agents.torch.ppo import PPO, PPO_RNN
from skrl.agents.torch.rpo import RPO
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, GaussianMixin, Model
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer
from skrl.utils.spaces.torch import flatten_tensorized_space, tensorize_space

from puffer_policies.interop.skrl import PufferModel, SeparateModels, SharedModel, as_policy

pytestmark = pytest.mark.interop

STEPS, ENVS = 16, 4
QUIET = {"write_interval": 0, "checkpoint_interval": 0}
SILENT = {"headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
ONE_UPDATE = {"rollouts": STEPS, "learning_epochs": 1, "mini_batches": 2}
SERVED = {
    **{key: pair for key, pair in PAIRS.items() if "dict" not in key},
    "dict-discrete": Spaces(spaces.Dict({"kind": spaces.Discrete(4), "at": VECTOR}), CHOICE),
    "tuple-box": Spaces(
        spaces.Tuple([VECTOR, spaces.MultiDiscrete([2, 3])]),
        spaces.Box(-9.0, 9.0, (2,), np.float32),
    ),
    "vector-multidiscrete": Spaces(VECTOR, spaces.MultiDiscrete([3, 2])),
    "vector-box": Spaces(VECTOR, spaces.Box(-1.0, 0.5, (2,), np.float32)),
    "vector-shifted": Spaces(VECTOR, spaces.Discrete(3, start=-1)),
}


def envs_of(pair):
    def make(seed):
        env = RandomEnv(Spaces(*pair_of(pair)), seed)
        is_continuous = action_layout(pair.action).is_continuous
        return gymnasium.wrappers.ClipAction(env) if is_continuous else env

    return wrap_env(same_step_envs([lambda i=i: make(i) for i in range(ENVS)]), verbose=False)


def agent_of(algorithm, env, model, **cfg):
    agent = algorithm(
        models={"policy": model, "value": model},
        memory=RandomMemory(memory_size=cfg["rollouts"], num_envs=env.num_envs, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg={**cfg, "experiment": QUIET},
    )
    agent.first_log_ratio = None
    return agent


def trained(agent, env, steps):
    """Let an agent train, and note the log-ratios of its first minibatch."""
    act = agent.policy.act

    def noted(inputs, role=""):
        results = act(inputs, role=role)
        if "taken_actions" in inputs and agent.first_log_ratio is None:
            stored = agent.memory.get_tensor_by_name("log_prob").flatten()
            agent.first_log_ratio = results[1]["log_prob"].flatten().sort().values, stored
        return results

    agent.policy.act = noted
    SequentialTrainer(cfg={**SILENT, "timesteps": steps}, env=env, agents=agent).train()
    return agent


def stored(agent, name):
    return agent.memory.get_tensor_by_name(name)


@pytest.mark.parametrize("pair", SERVED.values(), ids=SERVED)
def test_a_rollout_has_the_numbers_of_the_policy(pair):
    env = envs_of(pair)
    torch.manual_seed(0)
    stack = "MultiInput" if isinstance(pair.observation, spaces.Dict) else "Default"
    model = PufferModel(env, f"{stack}({SMALL})", device="cpu")
    agent = agent_of(PPO, env, model, rollouts=STEPS, mini_batches=1)
    agent.update = lambda **_: None
    trained(agent, env, STEPS)
    rows = stored(agent, "observations").flatten(0, 1)
    members, layout = stored(agent, "actions").flatten(0, 1), action_layout(pair.action)
    values, log_prob, entropy = act_again(model, rows, members)
    torch.testing.assert_close(log_prob, stored(agent, "log_prob").flatten())
    torch.testing.assert_close(values, stored(agent, "values").flatten())
    actions = members.reshape(-1, *layout.policy_shape)
    if not layout.is_continuous:
        start = torch.as_tensor(np.array(layout.start)).reshape(layout.policy_shape)
        actions = actions.long() - start
    obs = model._rows({"observations": rows})
    torch.testing.assert_close((values, log_prob, entropy), numbers(model.policy, obs, actions))


def act_again(model, rows, members):
    inputs = {"observations": rows, "taken_actions": members}
    log_prob = model.act(inputs, role="policy")[1]["log_prob"]
    values, _ = model.act(inputs, role="value")
    return values.flatten(), log_prob.flatten(), model.get_entropy(role="policy").flatten()


@pytest.mark.parametrize("algorithm", [PPO, A2C], ids=lambda cls: cls.__name__)
def test_updates_begin_with_the_numbers_of_the_rollout(algorithm):
    env = envs_of(PAIRS["vector-discrete"])
    cfg = {"rollouts": STEPS, "mini_batches": 1}
    model = PufferModel(env, f"NormalizeObservationWrapper(Default({SMALL}))", device="cpu")
    agent = trained(agent_of(algorithm, env, model, **cfg), env, STEPS)
    now, then = agent.first_log_ratio
    torch.testing.assert_close(now, then.sort().values)


class StoresBefore(PPO_RNN):
    """PPO_RNN as it should be, and may once be: it stores the state before a step, not after it."""

    def record_transition(self, **record):
        super().record_transition(**record)
        self._rnn_final_states = dict(self._rnn_final_states)


@pytest.mark.parametrize(
    "algorithm", [PPO_RNN, A2C_RNN, StoresBefore], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize("length", [STEPS, 4])
@pytest.mark.parametrize("stack", MEMORIES)
def test_memories_are_reset_exactly_in_rollouts_and_updates(stack, length, algorithm):
    env = envs_of(PAIRS["vector-discrete"])
    torch.manual_seed(0)
    model = PufferModel(env, stack, sequence_length=length, device="cpu")
    agent = agent_of(algorithm, env, model, rollouts=STEPS, mini_batches=1)
    agent.update, update = lambda **_: None, agent.update
    trained(agent, env, 2 * STEPS)  # the second rollout begins in the midst of episodes
    ends = stored(agent, "terminated") | stored(agent, "truncated")
    assert ends[:-1].any()
    before, after = stored(agent, "rnn_policy_0")[0, :, 0, 1:].chunk(2, -1)  # (B, 1 + S)
    carry = after if algorithm is StoresBefore else before
    starts = torch.cat([carry[None, :, :1] == 0, ends[:-1]]).squeeze(-1).T  # (B, T)
    state = {**model.guest.packed.unpack(carry[:, 1:]), EPISODE_START: starts}
    observations = stored(agent, "observations").transpose(0, 1)
    actions = stored(agent, "actions").transpose(0, 1).long().flatten()
    values, log_prob, _ = numbers(model.policy, observations, actions, state)
    torch.testing.assert_close(stored(agent, "values").squeeze(-1).T.flatten(), values)
    torch.testing.assert_close(stored(agent, "log_prob").squeeze(-1).T.flatten(), log_prob)
    update(timestep=0, timesteps=1)
    now, then = agent.first_log_ratio
    torch.testing.assert_close(now, then.sort().values)


def test_minibatches_of_whole_sequences_are_learned_from():
    env = envs_of(PAIRS["vector-discrete"])
    model = PufferModel(env, MEMORIES[1], sequence_length=8, device="cpu")
    before = [each.clone() for each in model.parameters()]
    trained(agent_of(PPO_RNN, env, model, **ONE_UPDATE), env, 2 * STEPS)
    pairs = zip(before, model.parameters(), strict=True)
    assert all(not torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("rollouts", "length", "batches"), [(STEPS, 12, 1), (STEPS, 16, 3), (24, 16, 1)]
)
def test_minibatches_that_cut_through_sequences_are_refused(rollouts, length, batches):
    env = envs_of(PAIRS["vector-discrete"])
    model = PufferModel(env, MEMORIES[1], sequence_length=length, device="cpu")
    agent = agent_of(PPO_RNN, env, model, rollouts=rollouts, mini_batches=batches)
    with pytest.raises(BuildError, match="cut through sequences"):
        trained(agent, env, rollouts)


def test_statistics_of_a_rollout_count_from_the_next_one_on():
    env = envs_of(PAIRS["vector-discrete"])
    model = PufferModel(env, f"NormalizeObservationWrapper(Default({SMALL}))", device="cpu")
    agent = agent_of(PPO, env, model, **ONE_UPDATE)
    counts = []
    agent.pre_interaction = lambda **_: counts.append(count(model))
    trained(agent, env, 2 * STEPS + 1)
    assert counts == [0.0] * (STEPS + 1) + [float(STEPS * ENVS)] * STEPS
    # Playing is no rollout: it adds the last one alone.
    SequentialTrainer(cfg={**SILENT, "timesteps": STEPS}, env=env, agents=agent).eval()
    assert count(model) == 2 * STEPS * ENVS


def count(model):
    return float(model.policy.state_dict()["moments.0.count"].sum())


def test_a_policy_without_memory_trains_in_an_agent_that_carries_one():
    env = envs_of(PAIRS["vector-discrete"])
    model = PufferModel(env, f"Default({SMALL})", device="cpu")
    trained(agent_of(PPO_RNN, env, model, **ONE_UPDATE), env, STEPS)


def test_an_agent_is_saved_loaded_and_plays_greedily_and_its_policy_is_ours(tmp_path):
    env = envs_of(PAIRS["vector-discrete"])
    models = [PufferModel(env, f"GRUWrapper(Default({SMALL}))", device="cpu") for _ in range(2)]
    agent, again = (agent_of(PPO_RNN, env, model, **ONE_UPDATE) for model in models)
    trained(agent, env, STEPS)
    agent.save(str(tmp_path / "agent.pt"))
    again.load(str(tmp_path / "agent.pt"))
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict())
    again.init()
    observations = torch.randn(ENVS, 4)
    _, outputs = again.act(observations, None, timestep=0, timesteps=1)
    logits, _ = models[1].policy.forward_eval(observations, {})
    assert outputs["mean_actions"].flatten().tolist() == logits.argmax(-1).tolist()
    path = save_checkpoint(
        tmp_path / "own.safetensors", models[0].policy, env=PAIRS["vector-discrete"]
    )
    torch.testing.assert_close(load_policy(path).state_dict(), models[0].policy.state_dict())


@pytest.mark.parametrize(
    ("stack", "error", "remedy"),
    [
        ("ActionMaskWrapper(Default)", BuildError, "Dict observation"),
        ("PrevActionRewardWrapper(Default)", BuildError, "observation"),
        ("Defualt", PolicyNotFound, "Default"),
    ],
)
def test_what_would_silently_be_another_policy_is_refused(stack, error, remedy):
    with pytest.raises(error) as caught:
        PufferModel(envs_of(PAIRS["vector-discrete"]), stack, device="cpu")
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "stack", "remedy"),
    [(PPO, f"LSTMWrapper(Default({SMALL}))", "PPO_RNN"), (RPO, f"Default({SMALL})", "Use PPO")],
)
def test_an_agent_that_does_something_else_is_refused(algorithm, stack, remedy):
    env = envs_of(PAIRS["vector-discrete"])
    agent = agent_of(algorithm, env, PufferModel(env, stack, device="cpu"), rollouts=STEPS)
    with pytest.raises(BuildError, match=remedy):
        trained(agent, env, STEPS)


def test_envs_of_another_kind_are_refused():
    modes = pytest.importorskip("gymnasium", "1.1").vector.AutoresetMode
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=modes.NEXT_STEP
    )
    with pytest.raises(BuildError, match="wrap_env"):
        PufferModel(envs)
    env = wrap_env(envs, verbose=False)
    PufferModel(env, device="cpu")
    with pytest.raises(BuildError, match="SAME_STEP"):
        PufferModel(env, "LSTMWrapper(Default)", device="cpu")


@pytest.mark.parametrize("other", ["another PufferModel", "a model of the library"])
def test_a_model_in_one_role_alone_is_refused(other):
    env = envs_of(PAIRS["vector-discrete"])
    agent = agent_of(PPO, env, PufferModel(env, f"Default({SMALL})", device="cpu"), **ONE_UPDATE)
    agent.value = PufferModel(env, device="cpu") if "Puffer" in other else Value()
    with pytest.raises(BuildError, match="Give it in both"):
        trained(agent, env, STEPS)


# -- from there to here ----------------------------------------------------------------------------


def theirs_of(ours):
    """Return the two models inside a policy of `as_policy`."""
    return ours.actor.model, ours.critic._model[0]


def by_the_library(policy, value, space, obs, members):
    rows = flatten_tensorized_space(map_nested(torch.Tensor.float, tensorize_space(space, obs)))
    taken = members.reshape(len(members), -1)
    inputs = {"observations": rows, "states": None, "taken_actions": taken}
    _, outputs = policy.act(inputs, role="policy")
    values, _ = value.act(inputs, role="value")
    return values.flatten(), outputs["log_prob"].flatten(), policy.get_entropy().flatten()


@pytest.mark.parametrize("key", ["vector-discrete", "vector-multidiscrete", "vector-box"])
@pytest.mark.parametrize("make", [SeparateModels, SharedModel], ids=["separate", "shared"])
def test_models_of_the_library_have_their_numbers_here(key, make):
    pair = SERVED[key]
    ours, layout = make(pair), action_layout(pair.action)
    obs = random_observations(pair.observation, (6,), seed=1)
    space = Spaces(*pair_of(pair)).action
    members = torch.from_numpy(np.stack([space.sample() for _ in range(6)]))
    theirs = by_the_library(*theirs_of(ours), pair.observation, obs, members)
    expected = numbers(ours, obs, members.reshape(-1, *layout.policy_shape))
    torch.testing.assert_close(theirs, expected)
    ids = {id(each) for model in theirs_of(ours) for each in model.parameters()}
    assert {id(each) for each in ours.parameters()} == ids


class Probabilities(CategoricalMixin, Model):
    """A model of probabilities, as users write one."""

    def __init__(self):
        sides = {"observation_space": VECTOR, "action_space": CHOICE, "device": "cpu"}
        Model.__init__(self, **sides)
        CategoricalMixin.__init__(self, unnormalized_log_prob=False)
        self.net = nn.Linear(4, 3)

    def compute(self, inputs, role=""):
        return self.net(inputs["observations"]).softmax(-1), {}


class Value(DeterministicMixin, Model):
    def __init__(self):
        sides = {"observation_space": VECTOR, "action_space": CHOICE, "device": "cpu"}
        Model.__init__(self, **sides)
        DeterministicMixin.__init__(self)
        self.net = nn.Linear(4, 1)

    def compute(self, inputs, role=""):
        return self.net(inputs["observations"]), {}


class Reals(GaussianMixin, Model):
    def __init__(self, **options):
        action = spaces.Box(-0.5, 0.5, (2,), np.float32)
        Model.__init__(self, observation_space=VECTOR, action_space=action, device="cpu")
        GaussianMixin.__init__(self, **options)
        self.net, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.tensor([-1.0, 5.0]))

    def compute(self, inputs, role=""):
        return 3 * self.net(inputs["observations"]), {"log_std": self.log_std}


def test_models_of_users_and_their_preprocessors_have_their_numbers_here():
    scaler, of_values = (RunningStandardScaler(size, device="cpu") for size in (4, 1))
    scaler(torch.randn(50, 4) * 3 + 1, train=True)
    of_values(torch.randn(50, 1) * 7, train=True)
    policy, value = Probabilities(), Value()
    ours = as_policy(policy, value, observation_preprocessor=scaler, value_preprocessor=of_values)
    obs, members = torch.randn(6, 4), torch.arange(6) % 3
    values, log_prob, entropy = by_the_library(policy, value, VECTOR, scaler(obs), members)
    values = of_values(values[:, None], inverse=True).flatten()
    torch.testing.assert_close((values, log_prob, entropy), numbers(ours, obs, members))


def test_limits_of_a_gaussian_are_those_of_the_library():
    policy = Reals(clip_mean_actions=True)
    obs, members = 2 * torch.randn(6, 4), torch.randn(6, 2)
    theirs = by_the_library(policy, Value(), VECTOR, obs, members)
    ours = numbers(as_policy(policy, Value()), obs, members)
    torch.testing.assert_close(theirs[1:], ours[1:])


class WithMemory(Value):
    def get_specification(self):
        return {"rnn": {"sequence_length": 4, "sizes": [(1, 2, 8)]}}


@pytest.mark.parametrize(
    ("policy", "value", "problem"),
    [
        (Probabilities, WithMemory, "memory"),
        (Value, Value, "neither"),
        (lambda: Reals(clip_actions=True), Value, "clip_actions"),
        (lambda: Reals(reduction="mean"), Value, "reduction"),
    ],
)
def test_models_without_a_form_here_are_refused(policy, value, problem):
    with pytest.raises(BuildError, match=problem):
        as_policy(policy(), value())


@pytest.mark.parametrize(
    "pair",
    [
        Spaces(VECTOR, spaces.MultiBinary(3)),
        Spaces(VECTOR, spaces.Box(-1, 2, (2,), np.int64)),
        PAIRS["image-multidiscrete"],
    ],
)
def test_spaces_without_a_stock_model_are_refused(pair):
    with pytest.raises(IncompatibleSpace, match="skrl"):
        SeparateModels(pair)


@pytest.mark.parametrize("name", ["SeparateModels", "SharedModel"])
def test_a_stock_model_is_checked_by_a_short_name(name):
    report = check_policy(f"skrl:{name}", PAIRS["vector-discrete"], select="B9,S1,S5,A1,P5")
    assert report.counts["passed"] == 5


# -- learning --------------------------------------------------------------------------------------


def play(agent, env, steps):
    """Return the mean return of episodes that an agent plays greedily."""
    agent.enable_training_mode(False)
    observations, returns, running = env.reset()[0], [], torch.zeros(env.num_envs)
    for timestep in range(steps):
        with torch.no_grad():
            _, outputs = agent.act(observations, None, timestep=timestep, timesteps=steps)
            following, rewards, terminated, truncated, infos = env.step(outputs["mean_actions"])
            record = {"observations": observations, "states": None, "next_states": None}
            agent.record_transition(
                **record,
                actions=outputs["mean_actions"],
                rewards=rewards,
                next_observations=following,
                terminated=terminated,
                truncated=truncated,
                infos=infos,
                timestep=timestep,
                timesteps=steps,
            )
        running += rewards.flatten()
        ended = (terminated | truncated).flatten()
        returns += running[ended].tolist()
        running[ended] = 0
        observations = following
    return np.mean(returns)


def annealed(steps, cfg):
    """Return settings with a learning rate that sinks to zero over the epochs of `steps`."""
    epochs = steps // cfg["rollouts"] * cfg["learning_epochs"]
    slope = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": epochs}
    rate = {"learning_rate_scheduler": LinearLR, "learning_rate_scheduler_kwargs": slope}
    return {**cfg, **rate, "value_clip": 0.0, "value_loss_scale": 0.5}


def vector_of(make, num_envs):
    return wrap_env(same_step_envs([make] * num_envs), verbose=False)


@pytest.mark.exhaustive
def test_cartpole_is_solved(note_return):
    torch.manual_seed(0)
    env, steps = vector_of(lambda: gymnasium.make("CartPole-v1"), 8), 100_000
    model = PufferModel(env, device="cpu")
    cfg = {"rollouts": 32, "learning_epochs": 20, "mini_batches": 1, "learning_rate": 1e-3}
    cfg = annealed(steps // 8, {**cfg, "discount_factor": 0.98, "gae_lambda": 0.8})
    agent = trained(agent_of(PPO, env, model, **cfg), env, steps // 8)
    mean = play(agent, env, 1_500)
    note_return(
        mean, least=400, trainer="skrl PPO", policy="Default", env="CartPole-v1", steps=steps
    )


@pytest.mark.exhaustive
def test_repeating_the_card_before_is_solved(note_return):
    torch.manual_seed(0)
    env, steps = vector_of(lambda: RepeatPreviousEnv(k=2), 16), 60_000
    stack = "GRUWrapper(Default(hidden_size=64))"
    model = PufferModel(env, stack, sequence_length=64, device="cpu")
    cfg = {"rollouts": 64, "learning_epochs": 4, "mini_batches": 4, "learning_rate": 2e-3}
    cfg = annealed(steps // 16, {**cfg, "entropy_loss_scale": 0.01})
    agent = trained(agent_of(PPO_RNN, env, model, **cfg), env, steps // 16)
    mean, name = play(agent, env, 300), "RepeatPrevious, k=2"
    note_return(mean, least=0.9, trainer="skrl PPO_RNN", policy=stack, env=name, steps=steps)
