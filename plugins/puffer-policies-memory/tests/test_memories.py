"""Every memory follows its equations, in steps and in sequence, wherever episodes start."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import memory_references
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores.base import Core
from puffer_policies_memory import associative
from puffer_policies_memory.ffm import FFMCore
from puffer_policies_memory.gated_delta_net import GatedDeltaNetCore
from puffer_policies_memory.linear_attention import LinearAttentionCore
from puffer_policies_memory.lru import LRUCore
from puffer_policies_memory.mamba import MambaCore
from puffer_policies_memory.mamba2 import Mamba2Core
from puffer_policies_memory.minlstm import MinLSTMCore
from puffer_policies_memory.rtu import RTUCore
from puffer_policies_memory.s5 import S5Core
from puffer_policies_memory.xlstm import MLSTMCore, SLSTMCore


class FadingAttentionCore(LinearAttentionCore):
    """Linear attention whose heads forget, each at its rate."""

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers, num_heads=2, half_life=5.0)


class ResidualMinLSTMCore(MinLSTMCore):
    """MinLSTM layers with a norm in front and the identity beside them."""

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers, residual=True)


class LinearRTUCore(RTUCore):
    """Recurrent trace units that are rectified outside of the recurrence."""

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers, linear=True)


B, T, INPUT, H = 4, 9, 6, 8
REFERENCES: dict[type[Core], Callable[..., Tensor]] = {
    S5Core: memory_references.s5,
    LRUCore: memory_references.lru,
    FFMCore: memory_references.ffm,
    LinearAttentionCore: memory_references.linear_attention,
    FadingAttentionCore: memory_references.linear_attention,
    MambaCore: memory_references.mamba,
    Mamba2Core: memory_references.mamba2,
    GatedDeltaNetCore: memory_references.gated_delta_net,
    MLSTMCore: memory_references.mlstm,
    SLSTMCore: memory_references.slstm,
    MinLSTMCore: memory_references.minlstm,
    ResidualMinLSTMCore: memory_references.minlstm,
    RTUCore: memory_references.rtu,
    LinearRTUCore: memory_references.rtu,
}
SMALL: dict[type[Core], dict[str, int]] = {
    S5Core: {"state_size": 6},
    FFMCore: {"memory_size": 3, "context_size": 2},
    LinearAttentionCore: {"num_heads": 2},
    MambaCore: {"d_state": 3, "d_conv": 3},
    Mamba2Core: {"num_heads": 4, "d_state": 3, "d_conv": 3},
    GatedDeltaNetCore: {"num_heads": 2, "d_conv": 3},
    MLSTMCore: {"num_heads": 2, "d_conv": 3, "expand": 1},
    SLSTMCore: {"num_heads": 2},
}
COUNTING: dict[type[Core], dict[str, int]] = {
    MinLSTMCore: {"num_layers": 2},
    ResidualMinLSTMCore: {"num_layers": 2},
}
"""What a core needs that can only fade, at rates that the input sets, to count steps."""
every_core = pytest.mark.parametrize("kind", REFERENCES)
every_depth = pytest.mark.parametrize("layers", [1, 2, 3])
STARTS = ["none", "first", "middle", "last", "consecutive", "whole", "random", "dense"]


def make(kind: type[Core], *, layers: int = 1, inputs: int = INPUT) -> Core:
    """A small core whose biases, which may be born zero, have something to do."""
    build: Any = kind
    core: Core = build(inputs, H, num_layers=layers, **SMALL.get(kind, {}))
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return core


def starts_of(kind: str, batch: int = B, time: int = T) -> Tensor:
    if kind in ("random", "dense"):
        return torch.rand(batch, time) < {"random": 0.2, "dense": 0.9}[kind]
    starts = torch.zeros(batch, time, dtype=torch.bool)
    columns = {"none": [], "first": [0], "middle": [4], "last": [-1], "consecutive": [3, 4, 5]}
    starts[:2, columns.get(kind, list(range(time)))] = True
    return starts


def warm_state(core: Core, batch: int = B) -> dict[str, Tensor]:
    with torch.no_grad():
        return core(torch.randn(batch, 5, core.input_size), core.initial_state(batch))[1]


def in_steps(core: Core, x: Tensor, state: dict[str, Tensor], starts: Tensor) -> Any:
    outputs = []
    for t in range(x.shape[1]):
        hidden, state = core.step(x[:, t], core.reset(state, starts[:, t]))
        outputs.append(hidden)
    return torch.stack(outputs, 1), state


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Draw the same numbers in every run: a norm of few units near 0 makes any rounding large."""
    torch.manual_seed(0)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequences of a test are several chunks of an associative memory."""
    monkeypatch.setattr(associative, "CHUNK", 4)


# -- equations and parity --------------------------------------------------------------------------


# More layers repeat what one does, with the state of each in its place.
@pytest.mark.parametrize(
    ("layers", "starts"), [*((1, each) for each in STARTS), (2, "random"), (3, "dense")]
)
@pytest.mark.usefixtures("short_chunks")
@every_core
def test_steps_sequence_and_a_float64_loop_agree(
    kind: type[Core], layers: int, starts: str
) -> None:
    core, given = make(kind, layers=layers), starts_of(starts)
    x, before = torch.randn(B, T, INPUT), warm_state(core)
    with torch.no_grad():
        expected = REFERENCES[kind](core, x, before, given)
        output, after = core(x, before, given)
        stepped, end = in_steps(core, x, before, given)
        wide = {key: each.double() for key, each in before.items()}
        exact, _ = copy.deepcopy(core).double()(x.double(), wide, given)
    # An mLSTM adds 1e-6 to its norm, which the loop leaves out.
    torch.testing.assert_close(exact, expected, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stepped, output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layers", "starts"), [(1, "none"), (1, "dense"), (3, "random")])
@pytest.mark.usefixtures("short_chunks")
@every_core
def test_gradients_agree_with_a_float64_loop_of_steps(
    kind: type[Core], layers: int, starts: str
) -> None:
    # In float64 on both sides: a norm near 0 makes rounding in float32 a hundred times larger.
    core, given = make(kind, layers=layers), starts_of(starts)
    state = {key: each.double() for key, each in warm_state(core).items()}
    x, weight = torch.randn(B, T, INPUT).double(), torch.randn(B, T, H).double()
    core.double()
    gradients = []
    for run in (core, core.step_through):
        core.zero_grad()
        inputs = x.clone().requires_grad_()
        before = {key: each.clone().requires_grad_() for key, each in state.items()}
        (run(inputs, before, given)[0] * weight).sum().backward()
        reached = [inputs, *core.parameters(), *before.values()]
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in reached])
    for own, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-8, rtol=1e-8)


@every_core
def test_pieces_of_a_long_sequence_are_the_whole(kind: type[Core]) -> None:
    core, time = make(kind, layers=2), 2 * associative.CHUNK + 20
    x, starts = torch.randn(2, time, INPUT), torch.rand(2, time) < 0.03
    with torch.no_grad():
        whole, after = core(x, core.initial_state(2), starts)
        pieces, state = [], core.initial_state(2)
        for cut in (slice(0, 50), slice(50, 51), slice(51, None)):
            piece, state = core(x[:, cut], state, starts[:, cut])
            pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-4, rtol=1e-5)


# -- resets ----------------------------------------------------------------------------------------


@every_core
def test_the_past_before_a_start_changes_nothing_after_it(kind: type[Core]) -> None:
    core, starts = make(kind, layers=2), starts_of("none")
    starts[1, 6] = True
    x, state = torch.randn(B, T, INPUT), warm_state(core)
    other, poisoned = x.clone(), {key: value.clone() for key, value in state.items()}
    other[1, :6] += 1.0
    for value in poisoned.values():
        value[1] = torch.nan
    with torch.no_grad():
        output, changed = core(x, state, starts)[0], core(other, state, starts)[0]
        from_nan = core(other, poisoned, starts)[0]
        fresh = core(x[1:2, 6:], core.initial_state(1))[0]
    assert torch.equal(output[1, 6:], changed[1, 6:])
    assert not torch.equal(output[1, :6], changed[1, :6])
    assert from_nan[1, :6].isnan().any()
    torch.testing.assert_close(from_nan[1:2, 6:], fresh, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output[1:2, 6:], fresh, atol=1e-5, rtol=1e-5)


@every_core
def test_the_gradient_reaches_back_to_the_start_and_no_further(kind: type[Core]) -> None:
    core, starts = make(kind, layers=2), starts_of("none")
    starts[:, 3] = True
    x = torch.randn(B, T, INPUT, requires_grad=True)
    state = {key: value.requires_grad_() for key, value in warm_state(core).items()}
    core(x, state, starts)[0][:, 7].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 2)) > 0).tolist() == [3 <= t <= 7 for t in range(T)]
    assert not any(value.grad.any() for value in state.values() if value.grad is not None)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 20.0])
@every_core
def test_a_thousand_steps_keep_float32s_accuracy(kind: type[Core], scale: float) -> None:
    build: Any = kind
    core: Core = build(16, 16)
    wide, x = copy.deepcopy(core).double(), torch.randn(2, 1024, 16) * scale
    with torch.no_grad():
        output, _ = core(x, core.initial_state(2))
        expected, _ = wide(x.double(), wide.initial_state(2))
    largest = float(expected.abs().max())  # of the numbers that were summed
    torch.testing.assert_close(output.double(), expected, atol=max(1e-4, 1e-5 * largest), rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6])
@every_core
def test_a_thousand_steps_stay_finite_at_extremes(kind: type[Core], scale: float) -> None:
    core = make(kind, layers=1 if scale < 1 else 2)
    x = (torch.randn(2, 1024, INPUT) * scale).requires_grad_()
    output, state = core(x, core.initial_state(2))
    output.square().mean().backward()
    assert output.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())
    assert all(p.grad.isfinite().all() for p in core.parameters() if p.grad is not None)


@every_core
def test_weights_and_state_are_real_float32_also_under_autocast(kind: type[Core]) -> None:
    core, x = make(kind, layers=2), torch.randn(B, T, INPUT)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = core(x, core.initial_state(B), starts_of("random"))
        output.float().square().mean().backward()
    assert output.isfinite().all()
    tensors = [*core.state_dict().values(), *state.values(), *core.initial_state(B).values()]
    assert {each.dtype for each in tensors} == {torch.float32}
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in core.parameters())


@every_core
def test_a_double_core_has_a_double_state(kind: type[Core]) -> None:
    core = make(kind).double()
    output, state = core.step(torch.randn(B, INPUT).double(), core.initial_state(B))
    assert {each.dtype for each in (output, *state.values())} == {torch.float64}


# -- state -----------------------------------------------------------------------------------------


@every_depth
@every_core
def test_state_is_batch_first_and_rows_permute(kind: type[Core], layers: int) -> None:
    core = make(kind, layers=layers)
    state, x, order = warm_state(core), torch.randn(B, INPUT), torch.tensor([3, 1, 0, 2])
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes == core.state_shapes(B)
    assert {shape[0] for shape in shapes.values()} == {B}
    turned, _ = core.step(x[order], {key: value[order] for key, value in state.items()})
    torch.testing.assert_close(turned, core.step(x, state)[0][order])


@pytest.mark.parametrize("starts", ["none", "random"])
@every_core
def test_the_state_that_goes_in_is_not_written(kind: type[Core], starts: str) -> None:
    core = make(kind)
    state = warm_state(core)
    before = {key: value.clone() for key, value in state.items()}
    core(torch.randn(B, T, INPUT), state, starts_of(starts))
    core.step(torch.randn(B, INPUT), state)
    torch.testing.assert_close(state, before, atol=0, rtol=0)


@every_core
def test_copies_and_pickles_compute_the_same(kind: type[Core]) -> None:
    core, x = make(kind), torch.randn(B, T, INPUT)
    expected = core(x, core.initial_state(B))[0]
    for again in (copy.deepcopy(core), pickle.loads(pickle.dumps(core))):
        assert torch.equal(again(x, again.initial_state(B))[0], expected)


@every_core
def test_no_layers_are_refused(kind: type[Core]) -> None:
    build: Any = kind
    with pytest.raises(BuildError, match="num_layers=0"):
        build(INPUT, H, num_layers=0)


# -- memory ----------------------------------------------------------------------------------------


@every_core
def test_it_learns_to_recall_what_was_shown_two_steps_ago(kind: type[Core]) -> None:
    torch.manual_seed(0)
    build: Any = kind
    core: Core = build(4, 32, **COUNTING.get(kind, {}))
    reader = torch.nn.Linear(32, 4)
    optimizer = torch.optim.Adam([*core.parameters(), *reader.parameters()], 0.01)
    accuracy, updates = 0.25, 0  # chance
    while accuracy < 0.8 and updates < 400:
        cues = torch.randint(4, (16, 24))
        hidden, _ = core(functional.one_hot(cues, 4).float(), core.initial_state(16))
        guesses, truth = reader(hidden[:, 2:]).flatten(0, 1), cues[:, :-2].flatten()
        optimizer.zero_grad()
        functional.cross_entropy(guesses, truth).backward()
        optimizer.step()
        accuracy, updates = float((guesses.argmax(-1) == truth).float().mean()), updates + 1
    assert accuracy >= 0.8


@pytest.mark.parametrize("kind", [LRUCore, RTUCore])
@pytest.mark.parametrize(("r_min", "r_max"), [(0, 1), (0.9, 1), (0.99999999, 1.0), (0.0, 1e-30)])
def test_a_ring_may_be_narrow_and_bounded_by_whole_numbers(kind, r_min, r_max) -> None:
    core = kind(INPUT, H, r_min=r_min, r_max=r_max)
    core(torch.randn(B, T, INPUT), core.initial_state(B))[0].sum().backward()
    for parameter in core.parameters():
        assert parameter.isfinite().all()
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_attention_that_forgets_everything_at_once_is_finite() -> None:
    core = LinearAttentionCore(INPUT, H, num_heads=2, half_life=1e-3)
    assert core(torch.randn(B, T, INPUT), core.initial_state(B))[0].isfinite().all()


@pytest.mark.parametrize("number", [2.0, True, "2", 0])
def test_heads_are_whole_numbers(number) -> None:
    with pytest.raises(BuildError, match=r"num_heads=.*whole number from 1"):
        MLSTMCore(INPUT, H, num_heads=number)
