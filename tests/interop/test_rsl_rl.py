"""Our policies as models of rsl_rl, against the library itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scenes import MEMORIES, SMALL, numbers

from puffer_policies import Spaces, load_policy, save_checkpoint
from puffer_policies.agent import Agent
from puffer_policies.checks import check_policy
from puffer_policies.contract import EPISODE_START
from puffer_policies.errors import BuildError, IncompatibleSpace, PolicyNotFound
from puffer_policies.nn.distributions import distribution

pytest.importorskip("rsl_rl")

from rsl_rl.env import VecEnv
from rsl_rl.models import MLPModel, RNNModel
from rsl_rl.runners import DistillationRunner, OnPolicyRunner
from tensordict import TensorDict

from puffer_policies.interop.rsl_rl import MLPModel as StockPolicy
from puffer_policies.interop.rsl_rl import PufferModel, as_policy

pytestmark = pytest.mark.interop

OURS, SHARED = (
    f"puffer_policies.interop.rsl_rl:Puffer{name}" for name in ("Model", "SharedCritic")
)
STEPS, ENVS, NUMBERS, ACTIONS = 12, 4, 3, 2
GROUPS = {"actor": ["first", "second"], "critic": ["first", "second"]}


class RandomEnvs(VecEnv):
    """Random observations in two groups, and rewards, in episodes of 2 to 6 steps."""

    num_envs, num_actions, max_episode_length, device, cfg = ENVS, ACTIONS, 6, "cpu", None

    def __init__(self, num_envs=ENVS):
        self.num_envs, self.episode_length_buf = num_envs, torch.zeros(num_envs)
        self.random = torch.Generator().manual_seed(0)

    def get_observations(self):
        first, second = (
            torch.randn(self.num_envs, n, generator=self.random) for n in (1, NUMBERS - 1)
        )
        return TensorDict({"first": first, "second": second}, batch_size=[self.num_envs])

    def step(self, actions):
        assert actions.shape == (self.num_envs, ACTIONS)
        self.episode_length_buf += 1
        chance = torch.rand(self.num_envs, generator=self.random)
        dones = (chance < 0.3) | (self.episode_length_buf >= 6)
        self.episode_length_buf[dones] = 0
        rewards = torch.randn(self.num_envs, generator=self.random)
        return self.get_observations(), rewards, dones, {"time_outs": dones & (chance < 0.1)}


class CartPole(VecEnv):
    """CartPole-v1 with a continuous force, whose velocities can be hidden."""

    num_actions, max_episode_length, device, cfg = 1, 500, "cpu", None

    def __init__(self, num_envs, *, velocities=True):
        self.num_envs, self.columns = num_envs, slice(None, None, 1 if velocities else 2)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.state = torch.rand(num_envs, 4) * 0.1 - 0.05

    def get_observations(self):
        seen = self.state[:, self.columns].clone()
        return TensorDict({"policy": seen}, batch_size=[self.num_envs])

    def step(self, actions):
        _, speed, angle, turn = self.state.unbind(1)
        force = 10 * actions[:, 0].clamp(-1, 1)
        push = (force + 0.05 * turn.square() * angle.sin()) / 1.1
        fall = (9.8 * angle.sin() - angle.cos() * push) / (
            0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1)
        )
        rates = torch.stack([speed, push - 0.05 * fall * angle.cos() / 1.1, turn, fall], 1)
        self.state = self.state + 0.02 * rates
        self.episode_length_buf = self.episode_length_buf + 1
        fallen = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.2095)
        late = self.episode_length_buf >= self.max_episode_length
        dones = fallen | late
        fresh = torch.rand(self.num_envs, 4) * 0.1 - 0.05
        self.state = torch.where(dones.unsqueeze(1), fresh, self.state)
        self.episode_length_buf = self.episode_length_buf.masked_fill(dones, 0)
        # Returns of a hundred would leave little of a clipped gradient to an actor that is shared.
        rewards = torch.full((self.num_envs,), 0.02)
        return self.get_observations(), rewards, dones, {"time_outs": late & ~fallen}


def runner_of(env, stack, *, shared=True, steps=STEPS, groups=GROUPS, actor=None, **options):
    torch.manual_seed(0)
    actor = {"class_name": OURS, "policy": stack, **(actor or {})}
    critic = {"class_name": SHARED} if shared else actor
    algorithm = {"class_name": "PPO", "num_mini_batches": 2, "num_learning_epochs": 1, **options}
    if shared:
        algorithm["share_cnn_encoders"] = True
    tables = {"algorithm": algorithm, "actor": actor, "critic": critic, "obs_groups": dict(groups)}
    settings = {"num_steps_per_env": steps, "save_interval": 1000, **tables}
    return OnPolicyRunner(env, settings, device="cpu")


def collect(runner):
    """Let a runner collect one rollout, and return its storage."""
    algorithm, env = runner.alg, runner.env
    obs = env.get_observations()
    with torch.inference_mode():
        for _ in range(STEPS):
            obs, *rest = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, *rest)
        algorithm.compute_returns(obs)
    return algorithm.storage


def rollout_of(storage):
    """Return observations (B, T, n), actions (B * T, A) and episode starts (B, T)."""
    joined = torch.cat([storage.observations["first"], storage.observations["second"]], -1)
    starts = torch.ones(STEPS, storage.num_envs, dtype=torch.bool)
    starts[1:] = storage.dones[:-1, :, 0] > 0
    return joined.transpose(0, 1), storage.actions.transpose(0, 1).flatten(0, 1), starts.T


def own_numbers(model, carried, observations, actions, starts):
    """Return values, log-probabilities and entropies of a rollout by the policy of a model."""
    if carried is None:
        return numbers(model.policy, observations.flatten(0, 1), actions)
    starts = starts.clone()
    starts[:, 0] = carried[0, :, 0] == 0
    state = model.guest.packed.unpack(carried[0, :, 1:])
    return numbers(model.policy, observations, actions, {**state, EPISODE_START: starts})


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "two"])
@pytest.mark.parametrize("stack", [f"Default({SMALL})", *MEMORIES])
def test_rollouts_and_updates_have_the_numbers_of_the_policy(stack, shared):
    runner = runner_of(RandomEnvs(), stack, shared=shared)
    algorithm, actor, critic = runner.alg, runner.alg.actor, runner.alg.critic
    collect(runner)  # so that the second rollout begins in the midst of episodes
    algorithm.update()
    of_actor, of_critic = actor.get_hidden_state(), critic.get_hidden_state()
    storage = collect(runner)
    rollout = rollout_of(storage)
    assert rollout[-1][:, 1:].any()
    values, log_prob, entropy = own_numbers(actor, of_actor, *rollout)
    if not shared:
        values = policy_values = own_numbers_of_critic(critic, of_critic, rollout)
        assert policy_values.shape == log_prob.shape
    stored = [each.transpose(0, 1).flatten() for each in (storage.values, storage.actions_log_prob)]
    torch.testing.assert_close(stored, [values, log_prob], rtol=1e-5, atol=1e-5)

    generator = (
        storage.recurrent_mini_batch_generator(2, 1)
        if actor.is_recurrent
        else storage.mini_batch_generator(2, 1)
    )
    entropies = []
    for batch in generator:
        with torch.no_grad():
            arguments = batch.observations, batch.masks
            actor(*arguments, batch.hidden_states[0], stochastic_output=True)
            values = critic(*arguments, batch.hidden_states[1])
        change = actor.get_output_log_prob(batch.actions) - batch.old_actions_log_prob.squeeze()
        torch.testing.assert_close(change.exp(), torch.ones_like(change), rtol=0, atol=1e-5)
        torch.testing.assert_close(values, batch.values, rtol=1e-5, atol=1e-5)
        params = actor.output_distribution_params
        assert actor.get_kl_divergence(batch.old_distribution_params, params).max() < 1e-9
        assert actor.output_entropy.shape == change.shape
        entropies.append(actor.output_entropy.mean())
    torch.testing.assert_close(torch.stack(entropies).mean(), entropy.mean())
    runner.alg.update()


def own_numbers_of_critic(critic, carried, rollout):
    observations, _, starts = rollout
    return own_numbers(critic, carried, observations, torch.zeros(starts.numel(), 1), starts)[0]


def test_a_minibatch_of_one_env_has_the_ratio_of_each_step():
    runner = runner_of(RandomEnvs(2), f"GRUWrapper(Default({SMALL}))")
    storage = collect(runner)
    for batch in storage.recurrent_mini_batch_generator(2, 1):
        actor = runner.alg.actor
        actor(batch.observations, batch.masks, batch.hidden_states[0], stochastic_output=True)
        ratio = actor.get_output_log_prob(batch.actions) - batch.old_actions_log_prob.squeeze()
        assert ratio.shape == (STEPS,)


def test_a_model_starts_again_where_episodes_end_and_anywhere_on_request():
    runner = runner_of(RandomEnvs(), f"FrameStackWrapper(Default({SMALL}))")
    actor, obs = runner.alg.actor, RandomEnvs().get_observations()
    with torch.no_grad():
        fresh = actor(obs)
        used = actor(obs)
        assert not torch.equal(fresh, used)
        actor.reset(torch.tensor([1, 0, 1, 0], dtype=torch.uint8))
        partly = actor(obs)
        torch.testing.assert_close(partly[::2], fresh[::2])
        assert not torch.equal(partly[1::2], fresh[1::2])
        actor.reset()
        torch.testing.assert_close(actor(obs), fresh)
        actor.reset()
        torch.testing.assert_close(actor(obs[:1]), fresh[:1])  # one env, as whoever plays has


def test_a_shared_critic_leaves_the_memory_of_the_actor_alone():
    runner = runner_of(RandomEnvs(), f"GRUWrapper(Default({SMALL}))")
    actor, critic, obs = runner.alg.actor, runner.alg.critic, RandomEnvs().get_observations()
    with torch.no_grad():
        actor(obs)
        before = actor.get_hidden_state()
        first = critic(obs)
        assert torch.equal(actor.get_hidden_state(), before)
        assert not torch.equal(critic(obs), first)  # now of the step that follows
        assert torch.equal(actor.get_hidden_state(), before)
    trained = [id(each) for group in runner.alg.optimizer.param_groups for each in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(actor.policy.parameters()))


def test_statistics_of_a_rollout_count_from_the_next_one_on():
    runner = runner_of(RandomEnvs(), f"NormalizeObservationWrapper(Default({SMALL}))")
    counts = []
    for _ in range(2):
        collect(runner)
        counts.append(float(runner.alg.actor.policy.state_dict()["moments.0.count"].sum()))
        runner.alg.update()
    assert counts == [0.0, float(STEPS * ENVS)]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "two"])
def test_a_runner_saves_and_loads_and_its_policy_is_ours(tmp_path, shared):
    stack = f"GRUWrapper(Default({SMALL}))"
    runner = runner_of(RandomEnvs(), stack, shared=shared)
    runner.learn(2)
    runner.save(tmp_path / "model.pt")
    again = runner_of(RandomEnvs(), stack, shared=shared)
    again.load(tmp_path / "model.pt")
    obs = RandomEnvs().get_observations()
    runner.alg.actor.reset()
    policies = [each.get_inference_policy() for each in (runner, again)]
    with torch.inference_mode():
        torch.testing.assert_close(*(policy(obs) for policy in policies))
    policies[0](obs)  # with gradients, from a state of inference mode
    model = runner.alg.actor
    path = save_checkpoint(tmp_path / "own.safetensors", model.policy, env=model.spaces)
    torch.testing.assert_close(load_policy(path).state_dict(), model.policy.state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's exporter
@pytest.mark.parametrize("stack", ["Default", "LSTMWrapper(Default)", "MinGRUWrapper(Default)"])
def test_the_exporter_of_the_library_writes_the_actor(tmp_path, stack):
    onnxruntime = pytest.importorskip("onnxruntime")
    runner = runner_of(RandomEnvs(), stack.replace("Default", f"Default({SMALL})"))
    runner.export_policy_to_onnx(str(tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    inputs = {each.name: np.zeros(each.shape, np.float32) for each in session.get_inputs()}
    actor, obs = runner.alg.actor, RandomEnvs(1).get_observations()
    inputs["obs"] = torch.cat([obs["first"], obs["second"]], -1).numpy()
    for _ in range(2):
        actions, *state = session.run(None, inputs)
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(actions), actor(obs), rtol=1e-4, atol=1e-5)
        inputs |= dict(zip(list(inputs)[1:], state, strict=True))
    with pytest.raises(BuildError, match="export_policy"):
        runner.export_policy_to_jit(str(tmp_path))


def test_squashed_actions_stay_between_their_bounds_in_a_run():
    stack = f"SquashedGaussianWrapper(Default({SMALL}))"
    runner = runner_of(RandomEnvs(), stack, actor={"action_range": (-0.5, 1.0)})
    actor = runner.alg.actor
    storage = collect(runner)
    assert storage.actions.min() >= -0.5
    assert storage.actions.max() <= 1
    assert actor.output_mean.abs().max() <= 1
    observations, actions, _ = rollout_of(storage)
    expected = numbers(actor.policy, observations.flatten(0, 1), actions)[1]
    stored = storage.actions_log_prob.transpose(0, 1).flatten()
    torch.testing.assert_close(stored, expected, rtol=1e-4, atol=1e-4)
    runner.alg.update()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
def test_an_actor_draws_where_torch_compile_leaves_the_number_of_rows_open():
    actor = runner_of(RandomEnvs(), f"Default({SMALL})").alg.actor
    compiled = torch.compile(actor, backend="eager", dynamic=True)  # as torch_compile_mode does
    with torch.inference_mode():
        drawn = compiled(RandomEnvs().get_observations(), stochastic_output=True)
    assert drawn.shape == (ENVS, ACTIONS)


def test_our_actor_goes_with_their_critic():
    runner = runner_of(RandomEnvs(), f"GRUWrapper(Default({SMALL}))", shared=False)
    runner.cfg["critic"] = {"class_name": "MLPModel", "hidden_dims": [8]}
    runner = OnPolicyRunner(RandomEnvs(), runner.cfg)
    runner.learn(2)
    runner.cfg["actor"], runner.cfg["critic"] = (
        {**runner.cfg["critic"], "distribution_cfg": {"class_name": "GaussianDistribution"}},
        {"class_name": OURS, "policy": f"Default({SMALL})"},
    )
    runner.cfg["actor"]["class_name"] = "RNNModel"
    OnPolicyRunner(RandomEnvs(), runner.cfg).learn(2)


def distillation_of(student, teacher):
    settings = {
        "algorithm": {"class_name": "Distillation", "gradient_length": 4},
        "student": {"class_name": OURS, "policy": student},
        "teacher": {"class_name": OURS, "policy": teacher},
        "obs_groups": {"student": ["first"], "teacher": ["first", "second"]},
        "num_steps_per_env": STEPS,
        "save_interval": 1000,
    }
    return DistillationRunner(RandomEnvs(), settings)


def test_a_teacher_with_a_memory_teaches_a_student_without(tmp_path):
    teacher = f"GRUWrapper(Default({SMALL}))"
    trained = runner_of(RandomEnvs(), teacher)
    trained.learn(1)
    trained.save(tmp_path / "model.pt")
    runner = distillation_of(f"Default({SMALL})", teacher)
    runner.load(tmp_path / "model.pt")
    before = runner.alg.student.policy.state_dict()
    before = {key: each.clone() for key, each in before.items()}
    runner.learn(2)
    after = runner.alg.student.policy.state_dict()
    assert not torch.equal(after["actor.linear.weight"], before["actor.linear.weight"])


def test_what_would_silently_be_another_policy_is_refused():
    with pytest.raises(BuildError, match="student of a Distillation") as caught:
        distillation_of(f"GRUWrapper(Default({SMALL}))", f"Default({SMALL})")
    assert "without memory" in str(caught.value)
    with pytest.raises(BuildError, match="prev_action"):
        runner_of(RandomEnvs(), "PrevActionRewardWrapper(Default)")
    with pytest.raises(PolicyNotFound, match="Default"):
        runner_of(RandomEnvs(), "Defualt")


def test_wrong_tables_are_errors_that_say_what_to_write():
    stock = {"hidden_dims": [8], "obs_normalization": True}
    with pytest.raises(BuildError, match="'hidden_dims', 'obs_normalization'") as caught:
        runner_of(RandomEnvs(), "Default", actor=stock)
    assert "hidden_size" in str(caught.value)
    assert "NormalizeObservationWrapper" in str(caught.value)
    runner = runner_of(RandomEnvs(), "Default")
    settings = {**runner.cfg, "critic": {"class_name": OURS}}
    with pytest.raises(BuildError, match="PufferSharedCritic"):  # the switch alone
        OnPolicyRunner(RandomEnvs(), settings)
    settings = {**runner.cfg, "algorithm": {"class_name": "PPO"}}
    with pytest.raises(BuildError, match="share_cnn_encoders"):  # the class alone
        OnPolicyRunner(RandomEnvs(), settings)
    settings = {**runner.cfg, "critic": {"class_name": SHARED, "policy": "Default"}}
    with pytest.raises(BuildError, match="takes no 'policy'"):
        OnPolicyRunner(RandomEnvs(), settings)
    with pytest.raises(BuildError, match=r"reads \['first'\]"):
        runner_of(RandomEnvs(), "Default", groups={**GROUPS, "critic": ["first"]})
    obs = TensorDict({"camera": torch.zeros(2, 3, 8, 8)}, batch_size=[2])
    with pytest.raises(BuildError, match="camera"):
        PufferModel(obs, {"actor": ["camera"]}, "actor", 2)
    with pytest.raises(BuildError, match="stochastic_output"):
        runner.alg.actor.output_std  # noqa: B018


# -- a critic that sees more -----------------------------------------------------------------------

MORE = {"actor": ["second"], "critic": ["second", "first"]}
DIVIDED = [
    f"SeparateCriticWrapper(Default({SMALL}))",
    f"SeparateCriticWrapper(GRUWrapper(Default({SMALL})), critic='Default(hidden_size=12)')",
    f"SeparateCriticWrapper(Default({SMALL}), critic='LSTMWrapper(Default({SMALL}))')",
]


@pytest.mark.parametrize("stack", DIVIDED)
def test_one_policy_serves_an_actor_and_a_critic_of_other_groups(stack, tmp_path):
    runner = runner_of(RandomEnvs(), stack, groups=MORE)
    actor, algorithm = runner.alg.actor, runner.alg
    assert actor.policy.privileged_keys == ("first",)
    collect(runner)
    algorithm.update()
    carried = actor.get_hidden_state()
    storage = collect(runner)
    rows = {key: storage.observations[key].transpose(0, 1) for key in ("first", "second")}
    _, actions, starts = rollout_of(storage)
    if carried is None:
        rows = {key: each.flatten(0, 1) for key, each in rows.items()}
        values, log_prob, _ = numbers(actor.policy, rows, actions)
    else:
        starts[:, 0] = carried[0, :, 0] == 0
        state = {**actor.guest.packed.unpack(carried[0, :, 1:]), EPISODE_START: starts}
        values, log_prob, _ = numbers(actor.policy, rows, actions, state)
    stored = [each.transpose(0, 1).flatten() for each in (storage.values, storage.actions_log_prob)]
    torch.testing.assert_close(stored, [values, log_prob], rtol=1e-5, atol=1e-5)
    algorithm.update()
    runner.save(tmp_path / "model.pt")
    again = runner_of(RandomEnvs(), stack, groups=MORE)
    again.load(tmp_path / "model.pt")
    obs = RandomEnvs().get_observations()
    alone = TensorDict({"second": obs["second"]}, batch_size=[ENVS])
    actor.reset()
    with torch.no_grad():
        for _ in range(2):  # the second one from what a memory keeps
            expected = actor(obs)
            assert torch.equal(again.get_inference_policy()(alone), expected)
    agent = Agent(actor.policy)
    acted = agent.act({"second": obs["second"].numpy()})
    actor.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(acted), actor(alone))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's exporter
def test_the_exporter_of_the_library_writes_an_actor_without_its_critic(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    groups = {"actor": ["second", "first"], "critic": ["first", "second", "third"]}

    class ThreeGroups(RandomEnvs):
        def get_observations(self):
            obs = super().get_observations()
            obs["third"] = torch.randn(self.num_envs, 2, generator=self.random)
            return obs

    runner = runner_of(ThreeGroups(), DIVIDED[2], groups=groups)
    runner.export_policy_to_onnx(str(tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert [each.name for each in session.get_inputs()] == ["obs"]
    obs = ThreeGroups(1).get_observations()
    rows = torch.cat([obs["second"], obs["first"]], -1)
    (actions,) = session.run(None, {"obs": rows.numpy()})
    with torch.no_grad():
        expected = runner.alg.actor(obs)
    torch.testing.assert_close(torch.from_numpy(actions), expected, rtol=1e-4, atol=1e-5)


def test_keys_beside_the_groups_of_the_library_are_refused():
    with pytest.raises(BuildError, match=r"actor_keys .* are the groups"):
        runner_of(
            RandomEnvs(),
            f"SeparateCriticWrapper(Default({SMALL}), actor_keys=['second'])",
            groups=MORE,
        )


# -- from there to here ----------------------------------------------------------------------------


def models(**options):
    obs = RandomEnvs().get_observations()
    forms = {"class_name": options.pop("form", "GaussianDistribution"), **options.pop("of", {})}
    options.setdefault("hidden_dims", [8])
    actor = MLPModel(obs, GROUPS, "actor", ACTIONS, distribution_cfg=forms, **options)
    return actor, MLPModel(obs, GROUPS, "critic", 1, **options)


@pytest.mark.parametrize("std_type", ["scalar", "log"])
@pytest.mark.parametrize("form", ["GaussianDistribution", "HeteroscedasticGaussianDistribution"])
def test_a_policy_of_the_library_has_its_numbers_here(form, std_type):
    actor, critic = models(form=form, of={"std_type": std_type}, obs_normalization=True)
    obs = RandomEnvs().get_observations()
    for each in (actor, critic):
        each.update_normalization(obs)
    drawn, values = actor(obs, stochastic_output=True), critic(obs)
    ours = as_policy(actor, critic)
    rows = torch.cat([obs["first"], obs["second"]], -1)
    expected = values.flatten(), actor.get_output_log_prob(drawn), actor.output_entropy
    torch.testing.assert_close(numbers(ours, rows, drawn), expected)
    torch.testing.assert_close(distribution(ours(rows)[0]).mode(), actor(obs))
    ours.update_statistics(2 * rows)
    assert actor.obs_normalizer.count == critic.obs_normalizer.count == 2 * ENVS


def test_a_stock_policy_is_checked_by_a_short_name():
    pair = Spaces(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,)))
    report = check_policy("rsl_rl:MLPModel", pair, select="B9,S1,S5,S6,A1")
    assert report.counts["passed"] == 5
    with pytest.raises(IncompatibleSpace, match="Discrete"):
        StockPolicy(Spaces(pair.observation, spaces.Discrete(2)))


def test_models_without_a_form_here_are_refused():
    obs, form = RandomEnvs().get_observations(), {"class_name": "GaussianDistribution"}
    recurrent = RNNModel(obs, GROUPS, "actor", ACTIONS, distribution_cfg=form)
    actor, critic = models()
    with pytest.raises(BuildError, match="RNNModel"):
        as_policy(recurrent, critic)
    with pytest.raises(BuildError, match="BetaDistribution"):
        as_policy(models(form="BetaDistribution")[0], critic)
    other = MLPModel(obs, {"critic": ["second"]}, "critic", 1)
    with pytest.raises(BuildError, match=r"second[\s\S]*get_observations"):
        as_policy(actor, other)


def test_models_of_other_groups_are_a_policy_with_privileged_keys():
    obs, form = RandomEnvs().get_observations(), {"class_name": "GaussianDistribution"}
    options = {"hidden_dims": [8], "obs_normalization": True}
    actor = MLPModel(obs, MORE, "actor", ACTIONS, distribution_cfg=form, **options)
    critic = MLPModel(obs, MORE, "critic", 1, **options)
    for each in (actor, critic):
        each.update_normalization(obs)
    ours = as_policy(actor, critic, obs)
    assert ours.privileged_keys == ("first",)
    with torch.no_grad():  # a graph that the library keeps could not be copied
        drawn, values = actor(obs, stochastic_output=True), critic(obs)
    rows = {key: obs[key] for key in ("first", "second")}
    expected = values.flatten(), actor.get_output_log_prob(drawn), actor.output_entropy
    torch.testing.assert_close(numbers(ours, rows, drawn), expected)
    acted = Agent(ours).act({"second": obs["second"].numpy()})
    torch.testing.assert_close(torch.from_numpy(acted), actor(obs).detach())
    report = check_policy(ours, ours.spaces, select="S1,S5,S6,S11,S13", isolate=False)
    assert not report.bad
    assert report.counts["passed"] == 5


# -- what is learned -------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("stack", "velocities", "updates"),
    [("Default(hidden_size=64)", True, 100), ("GRUWrapper(Default(hidden_size=64))", False, 200)],
    ids=["all", "without-velocities"],
)
def test_cartpole_with_a_continuous_force_is_solved(stack, velocities, updates, note_return):
    env, steps = CartPole(32, velocities=velocities), 32
    groups = {"actor": ["policy"], "critic": ["policy"]}
    options = {"num_mini_batches": 2, "num_learning_epochs": 4, "entropy_coef": 0.0}
    runner = runner_of(env, stack, steps=steps, groups=groups, **options)
    runner.learn(updates)
    policy = runner.get_inference_policy()
    env = CartPole(32, velocities=velocities)
    obs, lengths = env.get_observations(), torch.zeros(32)
    policy.reset()
    alive = torch.ones(32, dtype=torch.bool)
    with torch.inference_mode():
        for _ in range(500):
            obs, _, dones, _ = env.step(policy(obs))
            policy.reset(dones)
            lengths += alive
            alive &= ~dones
    name = "CartPole with a continuous force" + ("" if velocities else ", no velocities")
    taken = updates * steps * env.num_envs
    trainer = "rsl_rl PPO"
    note_return(lengths.mean(), least=400, trainer=trainer, policy=stack, env=name, steps=taken)
