"""Our policies in TorchRL's collectors and losses, and its actors and critics here."""

from __future__ import annotations

import copy
import warnings

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
from torch import nn

from puffer_policies import Spaces, load_policy, save_checkpoint
from puffer_policies.checks import check_policy
from puffer_policies.contract import EPISODE_START
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace, PolicyNotFound
from puffer_policies.spaces import action_layout

pytest.importorskip("torchrl")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library warns of classes of its own
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.data import NonTensor
    from torchrl.envs import (
        ActionMask,
        ClipTransform,
        Compose,
        ExplorationType,
        GymEnv,
        GymWrapper,
        SerialEnv,
        TransformedEnv,
        set_exploration_type,
    )
    from torchrl.modules import (
        ActorCriticWrapper,
        ActorValueOperator,
        IndependentNormal,
        LSTMModule,
        NormalParamExtractor,
        OneHotCategorical,
        ProbabilisticActor,
        TanhNormal,
        ValueOperator,
        set_recurrent_mode,
    )
    from torchrl.objectives import A2CLoss, ClipPPOLoss
    from torchrl.objectives.value import GAE

    from puffer_policies.interop.torchrl import MEMORY, as_policy, form_of, make_actor_critic

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torchrl"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensordict"),
]

STEPS, ENVS = 16, 2
LOSSES = "loss_objective", "loss_critic", "loss_entropy"


def envs_of(pair, *, by_index=False, **options):
    """Return random envs whose choices are vectors of 0s and 1s, or numbers."""
    makers = [
        lambda i=i: GymWrapper(
            RandomEnv(Spaces(*pair_of(pair)), i, **options), categorical_action_encoding=by_index
        )
        for i in range(ENVS)
    ]
    return TransformedEnv(SerialEnv(ENVS, makers), Compose())


def collector_of(env, actor, *, batches=1, steps=STEPS):
    frames = env.batch_size.numel() * steps
    return Collector(
        env,
        actor,
        frames_per_batch=frames,
        total_frames=frames * batches,
        auto_register_policy_transforms=True,
    )


def estimator(critic, **options):
    return GAE(gamma=0.9, lmbda=0.9, value_network=critic, deactivate_vmap=True, **options)


def observed(pair):
    """Return the keys under which the library has the observations."""
    if isinstance(pair.observation, spaces.Dict):
        return list(pair.observation)
    return "pixels" if pair.observation.dtype == np.uint8 else "observation"


@pytest.mark.parametrize("by_index", [False, True], ids=["one-hot", "index"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_rollout_has_the_numbers_of_the_policy(pair, by_index):
    env, layout = envs_of(pair, by_index=by_index), action_layout(pair.action)
    if layout.is_continuous:
        clip = ClipTransform(in_keys_inv=["action"], low=-1.0, high=0.5)
        env.append_transform(clip)
    stack = "MultiInput" if isinstance(pair.observation, spaces.Dict) else "Default"
    actor, critic = make_actor_critic(f"{stack}({SMALL})", env, observation=observed(pair))
    loss = ClipPPOLoss(actor, critic)
    for data in collector_of(env, actor, batches=2):
        rows = actor.forms.observe(data)
        actions = actor.forms.action.members(data["action"])
        kind = torch.float32 if layout.is_continuous else torch.int64
        actions = actions.reshape(-1, *layout.policy_shape).to(kind)
        values, log_prob, entropy = numbers(actor.policy, rows, actions)
        estimator(critic)(data)
        chances = actor.get_dist(data)
        found = chances.log_prob(data["action"]), chances.entropy()
        torch.testing.assert_close([each.flatten() for each in found], [log_prob, entropy])
        torch.testing.assert_close(data["action_log_prob"].flatten(), log_prob)
        torch.testing.assert_close(data["state_value"].flatten(), values)
        losses = loss(data)
        assert losses["kl_approx"].abs().max() < 1e-6
        sum(losses[key] for key in LOSSES).backward()
        assert all(each.grad is not None for each in actor.policy.parameters())


@pytest.mark.parametrize("stack", MEMORIES)
def test_memories_are_reset_exactly_in_rollouts_and_updates(stack):
    env = envs_of(PAIRS["vector-discrete"])
    actor, critic = make_actor_critic(stack, env)
    loss, batches = ClipPPOLoss(actor, critic), []
    for data in collector_of(env, actor, batches=2):
        batches.append(data.clone())
        estimator(critic)(data)
        row = data[torch.tensor([1])]
        assert loss(row)["kl_approx"].abs().max() < 1e-6
    data = torch.cat(batches, 1)  # (B, T), where the second batch begins in the midst of episodes
    done = data["next", "done"].squeeze(-1)
    starts = torch.cat([torch.ones(ENVS, 1, dtype=torch.bool), done[:, :-1]], 1)
    assert starts[:, 1:].any()
    actions = data["action"].argmax(-1).flatten()
    values, log_prob, _ = numbers(
        actor.policy, data["observation"], actions, {EPISODE_START: starts}
    )
    torch.testing.assert_close(data["action_log_prob"].flatten(), log_prob, rtol=0, atol=1e-5)
    values, later = values.reshape(starts.shape), later_values(actor.policy, data, starts)
    for options, is_recurrent in ({}, True), ({}, False), ({"shifted": True}, True):
        found = data.clone()
        with set_recurrent_mode(is_recurrent):
            estimator(critic, **options)(found)
        valid = found.get("shifted_valid", torch.ones_like(done)).reshape(done.shape)
        # Where an episode has ended for good, one call for both kinds leaves the next value out.
        ended = found["next", "terminated"].squeeze(-1) & bool(options)
        for key, expected, mask in (
            ("state_value", values, valid),
            (("next", "state_value"), later, valid & ~ended),
        ):
            torch.testing.assert_close(
                found[key].squeeze(-1)[mask], expected[mask], rtol=0, atol=1e-5
            )


def later_values(policy, data, starts):
    """Return the values (B, T) of the observations after each step, each with its own past."""
    values = torch.zeros(starts.shape)
    for row, step in np.ndindex(*starts.shape):
        first = int(torch.nonzero(starts[row, : step + 1])[-1])
        past = data["observation"][row, first : step + 1]
        whole = torch.cat([past, data["next", "observation"][row, step : step + 1]])
        begins = torch.arange(len(whole))[None] == 0
        values[row, step] = policy(whole[None], {EPISODE_START: begins})[1].flatten()[-1]
    return values.detach()


@pytest.mark.parametrize("by_index", [False, True], ids=["one-hot", "index"])
def test_an_env_without_a_batch_is_played_and_learned_from(by_index):
    pair = Spaces(*pair_of(PAIRS["vector-discrete"]))
    env = TransformedEnv(GymWrapper(RandomEnv(pair, 0), categorical_action_encoding=by_index))
    actor, critic = make_actor_critic(f"GRUWrapper(Default({SMALL}))", env)
    (data,) = collector_of(env, actor)
    assert data.shape == (STEPS,)
    with torch.no_grad():  # outside of a loss, each step stands alone
        assert actor.get_dist(data[0]).sample().shape == data["action"][0].shape
    estimator(critic)(data)
    assert ClipPPOLoss(actor, critic)(data)["kl_approx"].abs().max() < 1e-6


def test_the_loss_of_a_memory_has_the_gradient_of_the_policy():
    env = envs_of(PAIRS["vector-discrete"])
    actor, _ = make_actor_critic(f"GRUWrapper(Default({SMALL}))", env)
    (data,) = collector_of(env, actor)
    with set_recurrent_mode(True):
        actor.get_dist(data).log_prob(data["action"]).sum().backward()
    found = [each.grad.clone() for each in actor.policy.parameters() if each.grad is not None]
    actor.zero_grad()
    starts = data[MEMORY][..., 0] == 0
    actions = data["action"].argmax(-1).flatten()
    state = {EPISODE_START: starts}
    numbers(actor.policy, data["observation"], actions, state)[1].sum().backward()
    own = [each.grad for each in actor.policy.parameters() if each.grad is not None]
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-6)


MASKED = Spaces(spaces.Dict({"at": VECTOR, "mask": MASK}), CHOICE)


@pytest.mark.parametrize(
    ("stack", "observation", "by_index"),
    [
        (f"Default({SMALL})", "at", False),
        (f"ActionMaskWrapper(Default({SMALL}))", "at", True),
        (f"GRUWrapper(Default({SMALL}))", "at", True),
        (f"GRUWrapper(ActionMaskWrapper(Default({SMALL})))", "at", False),
        (f"GRUWrapper(ActionMaskWrapper(Default({SMALL}), key='mask'))", ["at", "mask"], True),
    ],
)
def test_no_masked_action_is_taken_and_ratios_are_1(stack, observation, by_index):
    env = envs_of(MASKED, masked=True, by_index=by_index)
    actor, critic = make_actor_critic(stack, env, observation=observation, mask="mask")
    loss = ClipPPOLoss(actor, critic)
    for data in collector_of(env, actor, batches=2):  # the env refuses illegal actions
        estimator(critic)(data)
        losses = loss(data)
        assert losses["kl_approx"].abs().max() < 1e-6
        assert sum(losses[key] for key in LOSSES).isfinite()


def test_the_transform_of_the_library_and_a_policy_read_the_same_mask():
    env = envs_of(MASKED, masked=True)
    env.append_transform(ActionMask(mask_key="mask"))
    actor, _ = make_actor_critic(f"Default({SMALL})", env, observation="at", mask="mask")
    (data,) = collector_of(env, actor)
    assert (data["mask"].bool() | ~data["action"].bool()).all()


def test_statistics_of_a_rollout_count_from_the_next_one_on():
    env = envs_of(PAIRS["vector-discrete"])
    stack = f"NormalizeObservationWrapper(GRUWrapper(Default({SMALL})))"
    actor, critic = make_actor_critic(stack, env)
    loss, counts = ClipPPOLoss(actor, critic), []
    for data in collector_of(env, actor, batches=3):
        counts.append(float(actor.policy.state_dict()["moments.0.count"].sum()))
        estimator(critic)(data)
        assert loss(data)["kl_approx"].abs().max() < 1e-6
        actor.update_statistics(data)
    assert counts == [0.0, ENVS * STEPS, 2 * ENVS * STEPS]


def test_other_losses_of_the_library_take_the_actor():
    env = envs_of(PAIRS["vector-discrete"])
    actor, critic = make_actor_critic(f"LSTMWrapper(Default({SMALL}))", env)
    (data,) = collector_of(env, actor)
    loss = A2CLoss(actor, critic)
    estimator(critic)(data)
    losses = loss(data)
    sum(losses[key] for key in LOSSES).backward()
    assert all(each.grad is not None for each in actor.policy.parameters())


def test_weights_of_a_loss_are_loaded_and_its_policy_is_ours(tmp_path):
    env = GymEnv("CartPole-v1")
    actor, critic = make_actor_critic(f"GRUWrapper(Default({SMALL}))", env)
    loss = ClipPPOLoss(actor, critic)
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    other_actor, other_critic = make_actor_critic(f"GRUWrapper(Default({SMALL}))", env)
    other = ClipPPOLoss(other_actor, other_critic)
    other.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=False))
    torch.testing.assert_close(other_actor.policy.state_dict(), actor.policy.state_dict())
    path = save_checkpoint(tmp_path / "own.safetensors", actor.policy, env="CartPole-v1")
    torch.testing.assert_close(load_policy(path).state_dict(), actor.policy.state_dict())


def test_the_likeliest_action_is_taken_unless_a_collector_explores():
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose())
    actor, _ = make_actor_critic(f"LSTMWrapper(Default({SMALL}))", env)
    env.append_transform(actor.make_tensordict_primer())
    step = env.reset(seed=0)
    with torch.no_grad():
        likeliest = actor.get_dist(step).deterministic_sample
        assert (actor(step.clone())["action"] == likeliest).all()
        with set_exploration_type(ExplorationType.RANDOM):
            drawn = {int(actor(step.clone())["action"].argmax()) for _ in range(40)}
    assert drawn == {0, 1}
    assert env.rollout(5, actor).shape[0] <= 5


def test_integers_that_do_not_begin_at_zero_reach_the_env_and_the_update():
    pair = Spaces(VECTOR, spaces.Box(-1, 2, (2,), np.int64))
    env = envs_of(pair)
    actor, critic = make_actor_critic(f"Default({SMALL})", env)
    (data,) = collector_of(env, actor, steps=32)
    assert set(data["action"].flatten().tolist()) == {-1, 0, 1, 2}
    estimator(critic)(data)
    assert ClipPPOLoss(actor, critic)(data)["kl_approx"].abs().max() < 1e-6


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stack", "options", "error", "remedy"),
    [
        ("Defualt", {}, PolicyNotFound, "Default"),
        ("PrevActionRewardWrapper(LSTMWrapper(Default))", {}, BuildError, "observation"),
        ("ActionMaskWrapper(Default)", {}, BuildError, "transform ActionMask"),
        ("Default", {"observation": "pixels"}, BuildError, "'observation'"),
        ("Default", {"observation": ["observation", "speed"]}, BuildError, "'speed'"),
        ("Default", {"mask": "legal"}, BuildError, "'legal'"),
    ],
)
def test_what_would_silently_be_another_policy_is_refused(stack, options, error, remedy):
    env = envs_of(PAIRS["vector-discrete"])
    with pytest.raises(error) as caught:
        make_actor_critic(stack, env, **options)
    assert remedy in str(caught.value)


def test_a_mask_of_another_size_is_refused():
    pair = Spaces(spaces.Dict({"at": VECTOR, "mask": VECTOR}), CHOICE)
    with pytest.raises(BuildError, match="3 options"):
        make_actor_critic("Default", envs_of(pair), observation="at", mask="mask")


def test_a_memory_that_nobody_carries_is_an_error_that_names_the_primer():
    env = envs_of(PAIRS["vector-discrete"])
    actor, _ = make_actor_critic(f"LSTMWrapper(Default({SMALL}))", env)
    with pytest.raises(ContractError, match="make_tensordict_primer"):
        actor(env.reset())


def test_a_memory_that_would_learn_from_single_or_shuffled_steps_is_an_error():
    env = envs_of(PAIRS["vector-discrete"])
    actor, critic = make_actor_critic(f"LSTMWrapper(Default({SMALL}))", env)
    (data,) = collector_of(env, actor)
    loss = ClipPPOLoss(actor, critic)
    estimator(critic)(data)
    for judge in actor.get_dist, critic:
        with pytest.raises(ContractError, match="set_recurrent_mode"):
            judge(data)
    shuffled = data.reshape(-1)[torch.randperm(ENVS * STEPS, generator=torch.Generator())]
    with pytest.raises(ContractError, match="whole rows"):
        loss(shuffled)


def test_a_spec_without_a_space_is_refused():
    with pytest.raises(IncompatibleSpace, match="NonTensor"):
        form_of(NonTensor(()))


# -- from there to here ----------------------------------------------------------------------------


def theirs(distribution, numbers_of_logits, *, size=4):
    """Return an actor and a critic of the library with two networks."""
    layers = nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, numbers_of_logits)
    is_normal = distribution in (TanhNormal, IndependentNormal)
    net = nn.Sequential(*layers, *([NormalParamExtractor()] if is_normal else []))
    keys = ["loc", "scale"] if is_normal else ["logits"]
    bounds = {"low": -1.0, "high": 0.5} if distribution is TanhNormal else {}
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], keys),
        in_keys=keys,
        distribution_class=distribution,
        distribution_kwargs=bounds,
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 1)))
    return actor, critic


FORMS = [
    (torch.distributions.Categorical, CHOICE, True, 3),
    (OneHotCategorical, CHOICE, False, 3),
    (IndependentNormal, PAIRS["discrete-box"].action, False, 4),
    (TanhNormal, PAIRS["discrete-box"].action, False, 4),
]


@pytest.mark.parametrize(("distribution", "action", "by_index", "size"), FORMS)
@pytest.mark.parametrize("form", ["apart", "wrapper", "operator"])
def test_an_actor_and_a_critic_of_the_library_have_their_numbers_here(
    distribution, action, by_index, size, form
):
    env = envs_of(Spaces(VECTOR, action), by_index=by_index)
    actor, critic = theirs(distribution, size)
    given = {"apart": (actor, critic), "wrapper": (ActorCriticWrapper(actor, critic),)}.get(form)
    if form == "operator":
        common = TensorDictModule(nn.Linear(4, 4), ["observation"], ["observation"])
        given = (ActorValueOperator(common, actor, critic),)
        actor, critic = given[0].get_policy_operator(), given[0].get_value_operator()
    policy = as_policy(*given, env=env)
    step = env.reset()
    with set_exploration_type(ExplorationType.RANDOM), torch.no_grad():
        drawn = actor(step.clone())
        values = critic(step.clone())["state_value"].flatten()
    actions = drawn["action"]
    actions = actions.argmax(-1) if distribution is OneHotCategorical else actions
    own = numbers(policy, step["observation"], actions)
    torch.testing.assert_close((values, drawn["action_log_prob"]), own[:2])
    if distribution is not TanhNormal:  # whose entropy is estimated there
        torch.testing.assert_close(actor.get_dist(step.clone()).entropy(), own[2])


def test_an_actor_and_a_critic_of_the_library_keep_the_contract():
    env = envs_of(PAIRS["vector-discrete"])
    report = check_policy(
        as_policy(*theirs(OneHotCategorical, 3), env=env),
        PAIRS["vector-discrete"],
        select="B9,S1,S5,A1,P1",
    )
    assert not report.bad, report


def test_what_has_no_form_here_is_refused():
    env = envs_of(PAIRS["vector-discrete"])
    actor, critic = theirs(OneHotCategorical, 3)
    with pytest.raises(BuildError, match="ValueOperator"):
        as_policy(actor, env=env)
    memory = LSTMModule(4, 4, in_key="observation", out_key="observation")
    for common in (memory, TensorDictModule(nn.Linear(4, 4), ["speed"], ["observation"])):
        with pytest.raises(BuildError, match=r"is_init|speed"):
            as_policy(ActorValueOperator(common, actor, critic), env=env)
    beta = copy.deepcopy(theirs(IndependentNormal, 4)[0])
    beta[-1].distribution_class = lambda loc, scale: torch.distributions.Beta(scale, scale)
    with pytest.raises(BuildError, match="Beta"):
        as_policy(beta, critic, env=envs_of(Spaces(VECTOR, PAIRS["discrete-box"].action)))


# -- learning --------------------------------------------------------------------------------------


def train(
    stack, env, *, frames, steps, rate, epochs=4, minibatches=4, entropy=0.01, gamma=0.99, **keys
):
    """Train as a user of the library does, and return the actor."""
    actor, critic = make_actor_critic(stack, env, **keys)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=entropy, normalize_advantage=True)
    estimate = GAE(gamma=gamma, lmbda=0.95, value_network=critic, deactivate_vmap=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=rate, eps=1e-5)
    rows = env.batch_size.numel()
    batches = frames // (rows * steps)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, batches)
    for data in collector_of(env, actor, batches=batches, steps=steps):
        estimate(data)
        flat = data if actor.guest.packed.size else data.reshape(-1)
        for _ in range(epochs):
            for chosen in torch.randperm(len(flat)).chunk(minibatches):
                losses = loss(flat[chosen])
                optimizer.zero_grad()
                sum(losses[key] for key in LOSSES).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        actor.update_statistics(data)
        schedule.step()
    return actor


def mean_return(env, actor, *, episodes, explore=ExplorationType.DETERMINISTIC, steps=600):
    """Play the first episode of each row, again and again, and return the mean of the returns."""
    returns = []
    with torch.no_grad(), set_exploration_type(explore):
        while len(returns) < episodes:
            data = env.rollout(steps, actor, break_when_any_done=False)
            done = data["next", "done"].squeeze(-1).cumsum(1)
            before = (done - data["next", "done"].squeeze(-1).long()) == 0
            rewards = data["next", "reward"].squeeze(-1)
            returns += (rewards * before).sum(1).tolist()
    return float(np.mean(returns))


@pytest.mark.exhaustive
def test_cartpole_is_solved(note_return):
    torch.manual_seed(0)
    env = TransformedEnv(SerialEnv(8, lambda: GymEnv("CartPole-v1")), Compose())
    env.set_seed(0)
    frames = 100_000
    actor = train("Default", env, frames=frames, steps=128, rate=2.5e-3, entropy=0.01)
    mean = mean_return(env, actor, episodes=16)
    trainer = "TorchRL ClipPPOLoss"
    note_return(mean, least=400, trainer=trainer, policy="Default", env="CartPole-v1", steps=frames)


@pytest.mark.exhaustive
def test_masked_recall_is_solved_by_a_memory_with_a_mask(note_return):
    torch.manual_seed(0)
    makers = [lambda: GymWrapper(MaskInObservation(), categorical_action_encoding=True)] * 16
    env = TransformedEnv(SerialEnv(16, makers), Compose())
    env.set_seed(0)
    stack, frames = "GRUWrapper(ActionMaskWrapper(Default(hidden_size=64)))", 50_000
    actor = train(stack, env, frames=frames, steps=64, rate=2e-3, observation="symbol", mask="mask")
    mean = mean_return(env, actor, episodes=96, steps=64)
    trainer, name = "TorchRL ClipPPOLoss", "masked recall"
    note_return(mean, least=0.9, trainer=trainer, policy=stack, env=name, steps=frames)
