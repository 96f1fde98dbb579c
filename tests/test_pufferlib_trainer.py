"""Our policies in PufferLib's trainer: by name, with memories that are reset exactly."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pufferlib_library import IS_REAL, Library
from scenes import CHOICE, MASK, PAIRS, SMALL, VECTOR, RandomEnv, numbers, pair_of

from puffer_policies import Spaces
from puffer_policies.contract import EPISODE_START, LSTM_STATE
from puffer_policies.errors import (
    BuildError,
    ContractError,
    MissingDependency,
    PolicyError,
    PolicyNotFound,
)
from puffer_policies.interop.pufferlib import EpisodeStartWrapper, PufferLibPolicy, use_registry
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import LinearEncoder
from puffer_policies.spaces import spaces_of
from puffer_policies.spaces.nested import map_nested

VECTORS = PAIRS["vector-discrete"]
SERVED = {
    **{name: pair for name, pair in PAIRS.items() if name != "dict-multibinary"},
    "tuple-integers": Spaces(
        spaces.Tuple([VECTOR, spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2)]),
        spaces.Box(0, 2, (2,), np.int64),
    ),
}
DEFAULT = f"Default({SMALL})"
MEMORIES = [
    f"LSTMWrapper({DEFAULT})",
    f"GRUWrapper({DEFAULT}, num_layers=3)",
    f"MinGRUWrapper({DEFAULT}, num_layers=2)",
    f"GTrXLWrapper({DEFAULT}, num_layers=1, num_heads=2, memory=4)",
    f"FrameStackWrapper({DEFAULT})",
    f"SeparateCriticWrapper(RNNWrapper({DEFAULT}))",
]

pytestmark = [
    # PufferLib's own: it is made for CUDA, and asks for things that are no longer there.
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("error:PufferLib does not say"),
]


@pytest.fixture
def library(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # PufferLib leaves a link in the working folder
    library = Library(monkeypatch)
    use_registry()
    return library


def maker(pair, seed, *, starts=True, **options):
    env = RandomEnv(Spaces(*pair_of(pair)), seed, **options)
    return EpisodeStartWrapper(env) if starts else env


def collected(library, pair, stack, *, starts=True, memory=None, **train):
    """Return a trainer with one rollout of a policy whose every number counts."""
    torch.manual_seed(0)
    vecenv = library.serial(partial(maker, pair, starts=starts))
    args = library.args(stack, memory, **train)
    policy = library.pufferl.load_policy(args, vecenv)
    with torch.no_grad():
        for each in policy.parameters():
            each += 0.2 * torch.randn_like(each)
    trainer = library.trainer(args, vecenv, policy)
    trainer.evaluate()
    return trainer


def own_numbers(trainer, starts=None):
    """Return what the policy itself says of a rollout, and which steps start an episode."""
    guest = trainer.policy.guest
    seen, shown = trainer.policy._source.read(trainer.observations)
    starts = shown if starts is None else starts
    lead = tuple(starts.shape)
    actions = trainer.actions.reshape(-1, *guest.layout.policy_shape)
    state = {EPISODE_START: starts} if guest.packed.size else {}
    if guest.packed.size:
        seen = map_nested(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), seen)
    values, log_prob, _ = numbers(guest.policy, seen, actions, state)
    return values.reshape(lead), log_prob.reshape(lead), starts


def assert_exact(trainer, starts=None):
    values, log_prob, starts = own_numbers(trainer, starts)
    torch.testing.assert_close(trainer.values, values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trainer.logprobs, log_prob, rtol=1e-5, atol=1e-5)
    trainer.train()
    torch.testing.assert_close(trainer.ratio, torch.ones_like(trainer.ratio), rtol=0, atol=1e-5)
    torch.testing.assert_close(trainer.values, values, rtol=1e-5, atol=1e-5)
    return starts


@pytest.mark.parametrize("pair", SERVED.values(), ids=SERVED)
@pytest.mark.parametrize("stack", [DEFAULT, f"LSTMWrapper({DEFAULT})"], ids=["plain", "memory"])
def test_a_rollout_has_the_numbers_of_the_policy(library, pair, stack):
    trainer = collected(library, pair, stack)
    starts = assert_exact(trainer)
    assert starts[:, 1:].any()
    assert trainer.config["use_rnn"] is ("LSTM" in stack)


@pytest.mark.parametrize("stack", MEMORIES)
def test_memories_are_reset_exactly_where_the_observation_shows_the_start(library, stack):
    trainer = collected(library, VECTORS, stack)
    assert_exact(trainer)
    trainer.evaluate()  # from zeros, which PufferLib writes into the state of before
    assert_exact(trainer)


def test_without_it_memories_go_on_in_rollouts_and_in_training_alike(library):
    with pytest.warns(UserWarning, match=r"goes on from each episode.*EpisodeStartWrapper"):
        trainer = collected(library, VECTORS, f"LSTMWrapper({DEFAULT})", starts=False)
    trainer.evaluate()  # in which episodes of 3 to 7 steps end, as in the one before
    assert_exact(trainer, starts=torch.zeros(2, 16, dtype=torch.bool))


def test_observations_are_those_of_the_env(library):
    pair = SERVED["tuple-integers"]
    vecenv = library.serial(partial(maker, pair), num_envs=1)
    policy = PufferLibPolicy(DEFAULT, vecenv.driver_env)
    vecenv.async_reset(0)
    steps = []
    for _ in range(9):
        shown, *_ = vecenv.recv()
        steps.append(policy._source.read(torch.as_tensor(shown.copy())))
        vecenv.send(np.zeros((1, 2), np.int64))
    fresh = RandomEnv(Spaces(*pair_of(pair)), 0)
    for seen, _ in steps:
        drawn = map_nested(lambda leaf: torch.as_tensor(np.array(leaf)), fresh.observe())
        for here, there in zip(seen, drawn, strict=True):
            torch.testing.assert_close(here[0], there, check_dtype=False)
    starts = [bool(start) for _, start in steps]
    assert starts[0]
    assert sum(starts) == 2


# -- names -----------------------------------------------------------------------------------------


def loaded(library, policy, memory=None, *, pair=VECTORS, arguments=None, options=None, **train):
    vecenv = library.serial(partial(maker, pair))
    args = library.args(policy, memory, **train)
    args |= {"policy": arguments or {}, "rnn": options or {}}
    return library.pufferl.load_policy(args, vecenv), args


def test_sections_are_arguments_of_names_and_expressions(library):
    policy, args = loaded(
        library, "Default", "GRUWrapper", arguments={"hidden_size": 24}, options={"num_layers": 2}
    )
    assert policy.policy.spec.wrappers[0].kwargs["num_layers"] == 2
    assert policy.hidden_size == 24  # two layers of 24, in two tensors
    assert args["train"]["use_rnn"] is True
    policy, args = loaded(library, DEFAULT, "None")
    assert args["train"]["use_rnn"] is False
    assert policy.policy.spec.kwargs["hidden_size"] == 16


def test_calling_it_again_changes_nothing(library):
    before = library.pufferl.load_policy
    use_registry()
    assert library.pufferl.load_policy is before


def test_a_class_of_pufferlibs_keeps_its_name_and_takes_our_memories(library):
    pair = Spaces(VECTOR, CHOICE)
    vecenv = library.serial(partial(maker, pair, starts=False))
    args = library.args("Policy")
    theirs = library.pufferl.load_policy(args, vecenv)
    assert not isinstance(theirs, PufferLibPolicy)
    args = library.args("Policy", "GRUWrapper")
    with pytest.warns(UserWarning, match="goes on"):
        ours = library.pufferl.load_policy(args, vecenv)
    assert type(ours.policy.unwrapped) is type(theirs)
    trainer = library.trainer(args, vecenv, ours)
    trainer.evaluate()
    trainer.train()
    torch.testing.assert_close(trainer.ratio, torch.ones_like(trainer.ratio), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "memory", "error", "text"),
    [
        ("Defualt", None, PolicyNotFound, "Default"),
        ("Default", "GRUWraper", PolicyNotFound, "GRUWrapper"),
        ("Default", "Recurrent", BuildError, "--rnn-name LSTMWrapper"),
        ("LSTMWrapper(Default)", "GRUWrapper", BuildError, "recurrent"),
        ("Default(hidden=3)", None, BuildError, "hidden_size"),
        ("PrevActionRewardWrapper(Default)", None, BuildError, "wrapper of the env"),
        ("ActionMaskWrapper(Default)", None, BuildError, "key='action_mask'"),
    ],
)
def test_what_would_be_another_policy_is_refused(library, policy, memory, error, text):
    with pytest.raises(error) as caught:
        loaded(library, policy, memory)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (spaces.MultiBinary(3), "single choice"),
        (spaces.Discrete(3, start=1), "from 0"),
        (spaces.Box(-1, 1, (2,), np.int64), "from 0"),
        (spaces.Box(-1, 1, (2, 3)), "for a vector"),
        (spaces.Box(-1, 1, ()), "for a vector"),
    ],
    ids=str,
)
def test_actions_that_pufferlib_would_change_are_refused(library, action, text):
    vecenv = library.serial(partial(maker, Spaces(VECTOR, action)), num_envs=1)
    with pytest.raises(BuildError, match=text):
        PufferLibPolicy(DEFAULT, vecenv.driver_env)


def test_observations_without_room_are_refused(library):
    pair = Spaces(spaces.Discrete(5), CHOICE)
    vecenv = library.serial(partial(maker, pair, starts=False), num_envs=1)
    with pytest.raises(BuildError, match=r"0 bytes.*4 bytes.*\n?.*EpisodeStartWrapper"):
        PufferLibPolicy(DEFAULT, vecenv.driver_env)


def test_masks_are_read_from_the_observation(library):
    pair = Spaces(spaces.Dict({"at": VECTOR, "mask": MASK}), CHOICE)
    stack = f"GRUWrapper(ActionMaskWrapper({DEFAULT}, key='mask'))"
    vecenv = library.serial(partial(maker, pair, masked=True))
    args = library.args(stack)
    trainer = library.trainer(args, vecenv, library.pufferl.load_policy(args, vecenv))
    trainer.evaluate()  # the env refuses illegal actions
    assert_exact(trainer)


# -- what the trainer does -------------------------------------------------------------------------


def test_weights_are_those_of_the_file(library, tmp_path):
    first, _ = loaded(library, f"GRUWrapper({DEFAULT})")
    torch.save(first.state_dict(), tmp_path / "model.pt")
    vecenv = library.serial(partial(maker, VECTORS))
    args = library.args(f"GRUWrapper({DEFAULT})")
    args["load_model_path"] = str(tmp_path / "model.pt")
    again = library.pufferl.load_policy(args, vecenv)
    torch.testing.assert_close(again.state_dict(), first.state_dict())


def test_statistics_of_a_rollout_count_from_the_next_one_on(library):
    trainer = collected(library, VECTORS, f"LSTMWrapper(NormalizeObservationWrapper({DEFAULT}))")
    count = trainer.policy.state_dict()["policy.policy.moments.0.count"]
    assert count == 0
    assert_exact(trainer)
    assert count == 0
    trainer.evaluate()
    assert count == 32
    trainer.evaluate()  # as it ends, with rollouts that nothing is learned from
    trainer.train()
    trainer.evaluate()
    assert count == 64


def test_rollouts_of_several_segments_are_refused_where_there_is_a_memory(library):
    assert_exact(collected(library, VECTORS, DEFAULT, batch_size=64))
    trainer = collected(library, VECTORS, f"GRUWrapper({DEFAULT})", batch_size=64)
    with pytest.raises(BuildError, match=r"32 steps.*\n?.*segments of 16(.|\n)*batch_size by 2"):
        trainer.train()


def test_a_trainer_that_carries_nothing_is_refused(library):
    vecenv = library.serial(partial(maker, VECTORS))
    policy = PufferLibPolicy(f"GRUWrapper({DEFAULT})", vecenv.driver_env)
    trainer = library.trainer(library.args("-"), vecenv, policy)
    with pytest.raises(ContractError, match=r"lstm_h(.|\n)*use_rnn = True"):
        trainer.evaluate()


def test_a_state_of_another_width_is_refused(library):
    vecenv = library.serial(partial(maker, VECTORS))
    policy = PufferLibPolicy(f"GRUWrapper({DEFAULT})", vecenv.driver_env)
    state = dict.fromkeys(LSTM_STATE, torch.zeros(2, 16))
    shown = torch.as_tensor(np.zeros((2, *vecenv.single_observation_space.shape), np.uint8))
    with pytest.raises(ContractError, match=r"\(2, 16\).*expected \(2, 8\)"):
        policy.forward_eval(shown, state)


class Counts(ActorCritic):
    """A policy whose memory starts at 1 and doubles in each step, and is its value."""

    def __init__(self, env):
        spaces = spaces_of(env)
        super().__init__(LinearEncoder(spaces.observation, 8), spaces)

    def initial_state(self, batch_size, device=None):
        return {"number": torch.ones(batch_size, 1)}

    def forward_eval(self, observations, state=None):
        logits, _ = super().forward_eval(observations, state)
        state["number"] = 2 * torch.where(state["episode_start"][:, None], 1, state["number"])
        return logits, state["number"]


def test_a_memory_that_does_not_start_at_zero_starts_where_it_does(library):
    vecenv = library.serial(partial(maker, VECTORS))
    policy = PufferLibPolicy(Counts, vecenv.driver_env)
    assert policy.hidden_size == 1
    trainer = library.trainer(library.args("-", "-"), vecenv, policy)
    trainer.evaluate()
    _, starts = policy._source.read(trainer.observations)
    for row, first in zip(trainer.values, starts, strict=True):
        expected, number = [], 1
        for start in first:
            number = 2 * (1 if start else number)
            expected.append(number)
        assert row.tolist() == expected


@pytest.mark.skipif(IS_REAL, reason="PufferLib is installed")
def test_without_pufferlib_the_error_says_what_to_do():
    with pytest.raises(MissingDependency, match=r"NumPy 1 and gymnasium 0\.29"):
        use_registry()


def test_nothing_warns_where_there_is_nothing_to_say(library):
    vecenv = library.serial(partial(maker, VECTORS, starts=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PufferLibPolicy(DEFAULT, vecenv.driver_env)
    with pytest.raises(PolicyError):
        PufferLibPolicy("NoSuchPolicy", vecenv.driver_env)
