"""torch.compile makes one graph of every pass: episode starts, sampling and the loss included."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from puffer_policies.config.schema import TrainConfig
from puffer_policies.contract import EPISODE_START
from puffer_policies.nn.cores.gru import GRUCore, GRULayers
from puffer_policies.nn.cores.lstm import LSTMCore
from puffer_policies.nn.cores.operator import MOST_TRACES
from puffer_policies.nn.cores.rnn import RNNCore
from puffer_policies.nn.distributions import distribution
from puffer_policies.train.batch import Transitions
from puffer_policies.train.loss import Prediction, ppo_loss
from puffer_policies.wrappers.action_mask import ActionMaskWrapper
from puffer_policies.wrappers.memory import (
    GRUWrapper,
    GTrXLWrapper,
    LSTMWrapper,
    MinGRUWrapper,
    RNNWrapper,
    TransformerXLWrapper,
)
from puffer_policies.zoo.conv import Convolutional
from puffer_policies.zoo.mlp import Default

# Dynamo hides these warnings of its own, unless warnings are errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
VECTOR = SimpleNamespace(
    single_observation_space=spaces.Box(-1, 1, (5,), np.float32),
    single_action_space=spaces.Discrete(3),
)
IMAGE = SimpleNamespace(
    single_observation_space=spaces.Box(0, 255, (3, 36, 36), np.uint8),
    single_action_space=spaces.MultiDiscrete([3, 2]),
)
MEMORIES = [
    LSTMWrapper,
    GRUWrapper,
    RNNWrapper,
    MinGRUWrapper,
    GTrXLWrapper,
    TransformerXLWrapper,
]
FUSED = [LSTMCore, GRUCore, RNNCore]
ROWS, TIME = 4, 6


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def one_graph(function):
    """Compile without code generation, and refuse whatever would break the graph."""
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def drawn(space, *batch):
    draws = np.random.default_rng(0)
    if space.dtype == np.uint8:
        return torch.from_numpy(draws.integers(0, 256, (*batch, *space.shape), np.uint8))
    return torch.from_numpy(draws.standard_normal((*batch, *space.shape)).astype(np.float32))


def starts_of(*places):
    starts = torch.zeros(ROWS, TIME, dtype=torch.bool)
    for row, time in places:
        starts[row, time] = True
    return starts


def gradients(policy, call, observations, state):
    policy.zero_grad()
    logits, values = call(observations, dict(state))
    parts = logits if isinstance(logits, tuple) else (logits,)
    (sum(each.square().mean() for each in parts) + values.square().mean()).backward()
    return [each.grad for each in policy.parameters()]


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_memory_with_episode_starts_is_one_graph_with_the_same_gradients(memory):
    policy = memory(VECTOR, Default(VECTOR, hidden_size=32))
    call = one_graph(policy)
    observations = drawn(VECTOR.single_observation_space, ROWS, TIME)
    # One compilation serves any number of starts: a second one would be refused as a new graph.
    for starts in (starts_of(), starts_of((1, 3)), starts_of((0, 0), (2, 1), (2, 2), (3, 5))):
        state = {**policy.initial_state(ROWS), EPISODE_START: starts}
        exact = gradients(policy, policy, observations, state)
        actual = gradients(policy, call, observations, state)
        torch.testing.assert_close(actual, exact, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_step_of_a_memory_is_one_graph_and_leaves_the_same_state(memory):
    policy = memory(VECTOR, Default(VECTOR, hidden_size=32))
    observations = drawn(VECTOR.single_observation_space, ROWS)
    starts = torch.tensor([False, True, False, False])
    state = {
        key: torch.rand_like(x) if x.is_floating_point() else x
        for key, x in policy.initial_state(ROWS).items()
    }
    exact, actual = ({**state, EPISODE_START: starts} for _ in range(2))
    with torch.no_grad():
        outputs = policy.forward_eval(observations, exact)
        compiled = one_graph(policy.forward_eval)(observations, actual)
    torch.testing.assert_close(compiled, outputs)
    torch.testing.assert_close(actual, exact)


@pytest.mark.parametrize(("make", "env"), [(Default, VECTOR), (Convolutional, IMAGE)])
def test_policies_without_memory_are_one_graph(make, env):
    policy = make(env)
    observations = drawn(env.single_observation_space, ROWS)
    exact = gradients(policy, policy, observations, {})
    torch.testing.assert_close(gradients(policy, one_graph(policy), observations, {}), exact)
    with torch.no_grad():
        outputs = policy.forward_eval(observations, {})
        compiled = one_graph(policy.forward_eval)(observations, {})
    torch.testing.assert_close(compiled, outputs)


def test_masks_and_sampling_are_part_of_the_graph():
    policy = LSTMWrapper(VECTOR, ActionMaskWrapper(VECTOR, Default(VECTOR)))
    mask = torch.tensor([[True, False, False]] * ROWS)
    state = {**policy.initial_state(ROWS), EPISODE_START: mask[:, 1], "action_mask": mask}

    @torch.no_grad()
    def act(observations, state):
        logits, values = policy.forward_eval(observations, state)
        choice = distribution(logits)
        actions = choice.sample()
        return actions, choice.log_prob(actions), values

    observations = drawn(VECTOR.single_observation_space, ROWS)
    actions, log_probs, _ = one_graph(act)(observations, state)
    assert actions.tolist() == [0] * ROWS
    torch.testing.assert_close(log_probs, torch.zeros(ROWS))


def test_predictions_and_the_loss_are_one_graph():
    policy, config = Default(VECTOR), TrainConfig()
    observations = drawn(VECTOR.single_observation_space, 8)
    actions = torch.arange(8) % 3
    old = Transitions(*torch.rand(5, 8))

    def loss(observations):
        logits, values = policy(observations, {})
        choice = distribution(logits)
        new = Prediction(choice.log_prob(actions), choice.entropy(), values.flatten())
        return ppo_loss(old, new, config).total

    torch.testing.assert_close(one_graph(loss)(observations), loss(observations))


@pytest.mark.parametrize("core_class", FUSED)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_compiled_sequence_has_the_gradients_of_the_plain_one(core_class, layers):
    core = core_class(5, 8, num_layers=layers)
    starts = starts_of((0, 3), (1, 2), (1, 5))

    def gradients_of(call):
        torch.manual_seed(1)
        x = torch.randn(ROWS, TIME, 5, requires_grad=True)
        state = {
            key: torch.randn_like(each).requires_grad_()
            for key, each in core.initial_state(ROWS).items()
        }
        core.zero_grad()
        output, after = call(x, state, starts)
        (output.square().sum() + sum(each.sum() for each in after.values())).backward()
        leaves = [x, *state.values(), *core.parameters()]
        return [output, *after.values(), *(each.grad for each in leaves)]

    torch.testing.assert_close(gradients_of(one_graph(core)), gradients_of(core))


def test_a_second_backward_pass_and_one_that_comes_late_have_the_same_gradients():
    core, starts = LSTMCore(5, 8), starts_of((1, 3))
    call, x = one_graph(core), torch.randn(ROWS, TIME, 5)
    sums = [call(x, core.initial_state(ROWS), starts)[0].sum() for _ in range(MOST_TRACES + 2)]
    weight = core.layers.weight_ih_l0
    one, late = (torch.autograd.grad(each, weight)[0] for each in (sums[-1], sums[0]))
    torch.testing.assert_close(one, late)


@pytest.mark.parametrize("core_class", FUSED)
def test_a_compiled_sequence_under_bfloat16_is_near_the_plain_one(core_class):
    core, starts = core_class(5, 8), starts_of((1, 3), (2, 2))
    x, state = torch.randn(ROWS, TIME, 5), core.initial_state(ROWS)
    expected, after = core(x, state, starts)
    with torch.autocast("cpu", torch.bfloat16):
        actual, low = one_graph(core)(x, state, starts)
    torch.testing.assert_close(actual.float(), expected, atol=0.02, rtol=0.02)
    for key, each in after.items():
        assert low[key].dtype is torch.float32
        torch.testing.assert_close(low[key], each, atol=0.02, rtol=0.02)


def test_classes_that_are_derived_from_layers_leave_their_operator_alone():
    core = GRUCore(5, 8)
    own = core.layers.operator
    torch.nn.utils.parametrizations.weight_norm(core.layers, "weight_ih_l0")
    assert type(core.layers) is not GRULayers
    assert type(core.layers).operator is GRULayers.operator is own

    class Another(GRULayers):
        @staticmethod
        def run(*arguments, **options):
            return GRULayers.run(*arguments, **options)

    one_of_its_name = type("Another", (GRULayers,), {"run": Another.run})
    assert len({own, Another.operator, one_of_its_name.operator}) == 3
    x, starts = torch.randn(ROWS, TIME, 5), starts_of((1, 3), (2, 2))
    plain, state = GRUCore(5, 8), GRUCore(5, 8).initial_state(ROWS)
    expected, _ = plain(x, state, starts)
    torch.testing.assert_close(one_graph(plain)(x, state, starts)[0], expected)
