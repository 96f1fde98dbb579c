"""get_policy: from a name to a policy, and every way in which that can be asked for wrongly."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces as gym_spaces
from torch import nn

from puffer_policies import Registry, Spaces, default_registry, discover, get_policy
from puffer_policies.contract import missing_members
from puffer_policies.errors import (
    BuildError,
    ContractError,
    IncompatibleSpace,
    PolicyError,
    PolicyNotFound,
)
from puffer_policies.models import Default, LSTMWrapper
from puffer_policies.registry.records import Layer, PolicyRecord, Preset, Provenance, WrapperRecord
from puffer_policies.registry.specs import PolicySpec, WrapperSpec

SPACES = Spaces(gym_spaces.Box(-1, 1, (4,)), gym_spaces.Discrete(3))


class TwoArguments(nn.Module):
    """A policy of the contract in plain torch."""

    is_continuous = False

    def __init__(self, env, hidden_size, depth=1):
        super().__init__()
        self.hidden_size, self.depth = hidden_size, depth
        self.net = nn.Linear(env.single_observation_space.shape[0], hidden_size)
        self.heads = nn.Linear(hidden_size, env.single_action_space.n + 1)

    def encode_observations(self, observations, state=None):
        return self.net(observations.float())

    def decode_actions(self, hidden):
        out = self.heads(hidden)
        return out[:, 1:], out[:, :1]

    def forward_eval(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations, state=None):
        return self.forward_eval(observations, state)


WRONG_WRAPPERS = ["LSTMWrapper", {"LSTMWrapper": {}}, 5, None, [None], [("LSTMWrapper", {})]]


class OnlyForward(nn.Module):
    def __init__(self, env):
        super().__init__()

    def forward(self, observations):
        return observations


class Explodes(TwoArguments):
    def __init__(self, env):
        raise RuntimeError("no luck")


class Exits(TwoArguments):
    def __init__(self, env):
        raise SystemExit(3)


def test_a_name_builds_a_policy_that_keeps_the_contract():
    policy = get_policy("Default", SPACES, hidden_size=16)
    assert missing_members(policy) == []
    logits, values = policy(torch.zeros(5, 4))
    assert logits.shape == (5, 3)
    assert values.shape == (5, 1)


@pytest.mark.parametrize(
    "how",
    [
        lambda: get_policy("LSTMWrapper(Default(hidden_size=16), num_layers=2)", SPACES),
        lambda: get_policy(
            "Default", SPACES, hidden_size=16, wrappers=["LSTMWrapper(num_layers=2)"]
        ),
        lambda: get_policy(
            "Default",
            SPACES,
            hidden_size=16,
            wrappers=[WrapperSpec("LSTMWrapper", {"num_layers": 2})],
        ),
        lambda: get_policy(
            PolicySpec(
                "Default", {"hidden_size": 16}, (WrapperSpec("LSTMWrapper", {"num_layers": 2}),)
            ),
            SPACES,
        ),
        lambda: get_policy(Default, SPACES, hidden_size=16, wrappers=["Recurrent(num_layers=2)"]),
    ],
    ids=["expression", "wrapper expression", "wrapper spec", "spec", "class and alias"],
)
def test_every_way_of_asking_gives_the_same_recipe(how):
    policy = how()
    assert str(policy.spec) == (
        "puffer-policies/LSTMWrapper(puffer-policies/Default(hidden_size=16), num_layers=2)"
    )
    assert isinstance(policy, LSTMWrapper)


def test_a_spec_rebuilds_the_same_policy_from_json():
    policy = get_policy("LSTMWrapper(Default(hidden_size=16))", SPACES)
    again = get_policy(PolicySpec.from_json(policy.spec.to_json()), SPACES)
    again.load_state_dict(policy.state_dict())
    rows = torch.randn(2, 3, 4)
    assert torch.equal(policy(rows, {})[0], again(rows, {})[0])
    assert again.spec == policy.spec


def test_a_class_that_nobody_registered_can_be_built_and_wrapped():
    policy = get_policy(TwoArguments, SPACES, hidden_size=8, wrappers=["LSTMWrapper"])
    assert policy.spec.name == "local/TwoArguments"
    assert policy.hidden_size == 8


def test_defaults_of_the_record_are_used_unless_given(registry):
    built = get_policy("Sized", SPACES, registry=registry)
    assert built.hidden_size == 12
    assert built.spec.kwargs == {"hidden_size": 12}
    assert get_policy("Sized", SPACES, registry=registry, hidden_size=6).hidden_size == 6


def test_a_preset_is_an_expression_by_name(registry):
    place = Provenance(layer=Layer.PROJECT, distribution="project", origin="test")
    registry.add_preset(Preset(name="tiny", policy="Sized(hidden_size=2)", provenance=place))
    assert get_policy("tiny", SPACES, registry=registry).hidden_size == 2


def test_an_unknown_keyword_names_the_nearest():
    with pytest.raises(BuildError, match=r"'hiden_size' \(Did you mean 'hidden_size'\?\)"):
        get_policy("Default", SPACES, hiden_size=3)


def test_all_wrong_arguments_are_reported_at_once():
    with pytest.raises(BuildError) as caught:
        get_policy(TwoArguments, SPACES, dept=3)
    assert "'dept'" in str(caught.value)
    assert "'hidden_size' is missing" in str(caught.value)
    assert "hidden_size, depth=1" in caught.value.fix


def test_an_argument_given_twice_is_refused():
    with pytest.raises(BuildError, match="given twice"):
        get_policy("Default(hidden_size=3)", SPACES, hidden_size=4)


def test_an_impossible_stack_is_refused_before_anything_is_imported(registry):
    place = Provenance(layer=Layer.PROJECT, distribution="project", origin="test")
    registry.add(
        WrapperRecord(
            name="Memory",
            target="no_such_module:Memory",
            provenance=place,
            forbids=("recurrent",),
            provides=("recurrent",),
        )
    )
    with pytest.raises(
        BuildError, match=r"'Memory' can't wrap Memory\(Sized\).* forbids 'recurrent'"
    ) as refused:
        get_policy("Memory(Memory(Sized))", SPACES, registry=registry)
    assert refused.value.fix == "Use it once."


def test_a_wrapper_that_needs_something_below_it_says_what(registry):
    place = Provenance(layer=Layer.PROJECT, distribution="project", origin="test")
    registry.add(
        WrapperRecord(
            name="Needy", target="no_such_module:N", provenance=place, requires=("recurrent",)
        )
    )
    with pytest.raises(BuildError, match="requires 'recurrent', which nothing"):
        get_policy("Needy(Sized)", SPACES, registry=registry)


def test_a_wrapper_alone_is_no_policy():
    with pytest.raises(PolicyNotFound, match=r"is a wrapper, not a policy"):
        get_policy("LSTMWrapper", SPACES)


def test_a_policy_is_no_wrapper():
    with pytest.raises(PolicyNotFound, match=r"is a policy, not a wrapper"):
        get_policy("Default", SPACES, wrappers=["Structured"])


def test_a_space_that_does_not_fit_names_what_fits():
    with pytest.raises(IncompatibleSpace) as caught:
        get_policy("Convolutional", SPACES)
    assert "image" in caught.value.problem
    assert "Default" in caught.value.fix


def test_a_class_without_the_contract_lists_every_offence():
    with pytest.raises(ContractError) as caught:
        get_policy(OnlyForward, SPACES)
    text = str(caught.value)
    assert all(name in text for name in ("encode_observations", "decode_actions", "forward_eval"))


def test_a_missing_attribute_is_found_once_the_policy_is_built():
    class NoSize(TwoArguments):
        def __init__(self, env):
            super().__init__(env, 4)
            del self.hidden_size

    with pytest.raises(ContractError, match="no attribute hidden_size"):
        get_policy(NoSize, SPACES)
    assert isinstance(get_policy(NoSize, SPACES, validate="off"), NoSize)


def test_validation_can_be_switched_off():
    assert isinstance(get_policy(OnlyForward, SPACES, validate="off"), OnlyForward)


def test_an_unknown_validation_is_refused_with_the_nearest():
    with pytest.raises(BuildError, match="Did you mean 'static'"):
        get_policy("Default", SPACES, validate="statik")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("validate", "function"), [("shapes", "require_shapes"), ("full", "require_conformance")]
)
def test_a_validation_that_runs_the_policy_is_a_function_of_checks(validate, function):
    with pytest.raises(BuildError) as caught:
        get_policy("Default", SPACES, validate=validate)
    assert f"puffer_policies.checks.{function}(policy, env)" in caught.value.fix


@pytest.mark.parametrize(
    ("cls", "what"), [(Explodes, "RuntimeError: no luck"), (Exits, "SystemExit")]
)
def test_a_constructor_that_fails_is_a_build_error(cls, what):
    with pytest.raises(BuildError, match=what):
        get_policy(cls, SPACES)


def test_arguments_that_no_checkpoint_could_hold_are_refused():
    with pytest.raises(BuildError, match="plain data"):
        get_policy(TwoArguments, SPACES, hidden_size=4, depth=nn.ReLU)


@pytest.mark.parametrize("asked", [3, None, object()])
def test_what_is_no_name_is_refused(asked):
    with pytest.raises(BuildError, match="by name, PolicySpec or class"):
        get_policy(asked, SPACES)


def test_plugins_hear_of_what_was_built():
    heard = []

    class Hooks:
        def policy_built(self, policy, spec):
            heard.append((policy, spec))

    registry = discover(environ={"PUFFER_POLICIES_PLUGINS": ""})
    registry.hooks = Hooks()
    policy = get_policy("Default", SPACES, registry=registry)
    assert heard == [(policy, policy.spec)]


def test_every_error_is_one_of_ours():
    for asked in ("Nope", "Default(", "Default(**x)", "a.b(c)", "Default(Default, Default)", ""):
        with pytest.raises(PolicyError):
            get_policy(asked, SPACES)


def test_an_env_id_an_env_and_a_vector_env_serve_alike():
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    vector = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    try:
        counts = {
            sum(p.numel() for p in get_policy("Default", each).parameters())
            for each in ("CartPole-v1", env, vector)
        }
    finally:
        env.close()
        vector.close()
    assert counts == {1027}


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    for record in default_registry().records():
        if record.provenance.layer is Layer.BUILTIN:
            made.add(record)
    place = Provenance(layer=Layer.PROJECT, distribution="project", origin="test")
    target = f"{TwoArguments.__module__}:TwoArguments"
    made.add(
        PolicyRecord(
            name="Sized",
            target=target,
            provenance=place,
            defaults={"hidden_size": 12},
            loaded=TwoArguments,
        )
    )
    return made


@pytest.mark.parametrize("wrappers", WRONG_WRAPPERS)
def test_wrappers_of_a_wrong_type_are_shown(wrappers):
    with pytest.raises(BuildError, match=r"rapper.* got "):
        get_policy("Default", SPACES, wrappers=wrappers)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", None, True])
def test_a_width_that_is_none_is_refused_in_words(size):
    with pytest.raises(BuildError, match=r"hidden_size=.*should be a whole number from 1 on"):
        get_policy("Default", SPACES, hidden_size=size)
