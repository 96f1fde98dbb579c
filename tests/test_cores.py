"""The LSTM core is torch's LSTM, stepwise and in sequence, with exact resets anywhere."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores import FUSED_STEP_ROWS, LSTMCore

B, T, INPUT, H = 5, 12, 6, 7
LAYERS = [1, 2, 3]
STARTS = ["none", "first", "middle", "last", "consecutive", "whole", "random", "one row", "dense"]


def starts_of(kind: str, batch: int = B, time: int = T) -> Tensor:
    starts = torch.zeros(batch, time, dtype=torch.bool)
    if kind == "random":
        return torch.rand(batch, time) < 0.2
    if kind == "dense":
        return torch.rand(batch, time) < 0.9
    if kind == "one row":
        starts[2] = True
        return starts
    columns = {"first": [0], "middle": [5], "last": [-1], "consecutive": [3, 4, 5]}
    starts[: batch if kind == "whole" else 2, columns.get(kind, range(time))] = kind != "none"
    return starts


def random_state(core: LSTMCore, batch: int = B) -> dict[str, Tensor]:
    return {key: torch.randn_like(value) for key, value in core.initial_state(batch).items()}


def torch_lstm(core: LSTMCore, *, double: bool = False) -> nn.LSTM:
    """torch's own LSTM with the core's weights."""
    lstm = nn.LSTM(core.input_size, core.hidden_size, core.num_layers, batch_first=True)
    lstm.load_state_dict(core.lstm.state_dict())
    return lstm.double() if double else lstm


def layers_first(core: LSTMCore, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    shape = (-1, core.num_layers, core.hidden_size)
    h, c = (state[key].reshape(shape).transpose(0, 1).contiguous() for key in state)
    return h, c


def reference(core: LSTMCore, x: Tensor, state: dict[str, Tensor], starts: Tensor) -> Tensor:
    """A plain float64 loop over the steps and rows' resets, one torch LSTM call a step."""
    lstm = torch_lstm(core, double=True)
    h, c = (value.double() for value in layers_first(core, state))
    outputs = []
    for t in range(x.shape[1]):
        for row in range(len(x)):
            if starts[row, t]:
                h[:, row] = c[:, row] = 0.0
        output, (h, c) = lstm(x[:, t : t + 1].double(), (h, c))
        outputs.append(output)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("layers", LAYERS)
def test_a_sequence_without_starts_is_torchs_lstm(layers: int) -> None:
    core = LSTMCore(INPUT, H, num_layers=layers)
    x, state = torch.randn(B, T, INPUT), random_state(core)
    expected, (h, c) = torch_lstm(core)(x, layers_first(core, state))
    output, after = core(x, state)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(layers_first(core, after), (h, c))


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("layers", LAYERS)
def test_steps_sequence_and_a_float64_loop_agree(layers: int, kind: str) -> None:
    core = LSTMCore(INPUT, H, num_layers=layers)
    x, before, starts = torch.randn(B, T, INPUT), random_state(core), starts_of(kind)
    with torch.no_grad():
        expected = reference(core, x, before, starts)
        output, after = core(x, before, starts)
        state, stepped = before, []
        for t in range(T):
            hidden, state = core.step(x[:, t], core.reset(state, starts[:, t]))
            stepped.append(hidden)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(stepped, 1), output, atol=1e-5, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_one_step_of_a_large_batch_agrees_with_the_cell(layers: int) -> None:
    core = LSTMCore(INPUT, H, num_layers=layers)
    rows = FUSED_STEP_ROWS + 1
    x, state = torch.randn(rows, INPUT), random_state(core, rows)
    whole, after = core.step(x, state)
    part, part_after = core.step(x[:10], {key: each[:10] for key, each in state.items()})
    torch.testing.assert_close(whole[:10], part, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close({key: each[:10] for key, each in after.items()}, part_after)


@pytest.mark.parametrize("kind", ["random", "dense"])
def test_gradients_agree_with_a_loop_of_steps(kind: str) -> None:
    core, starts = LSTMCore(INPUT, H), starts_of(kind)
    x = torch.randn(B, T, INPUT, requires_grad=True)
    weight = torch.randn(B, T, H)
    reference(core, x, core.initial_state(B), starts).mul(weight).sum().backward()
    expected, x.grad = x.grad, None
    (core(x, core.initial_state(B), starts)[0] * weight).sum().backward()
    torch.testing.assert_close(x.grad, expected, atol=1e-5, rtol=1e-4)
    assert all(each.grad is not None for each in core.parameters())


def test_the_past_before_a_start_changes_nothing_after_it() -> None:
    core, starts = LSTMCore(INPUT, H), starts_of("none")
    starts[1, 6] = True
    x, state = torch.randn(B, T, INPUT), random_state(core)
    other, nan = x.clone(), {key: value.clone() for key, value in state.items()}
    other[1, :6] += 1.0
    nan["lstm_c"][1] = torch.nan
    with torch.no_grad():
        output, changed = core(x, state, starts)[0], core(other, nan, starts)[0]
        fresh = core(x[1:2, 6:], core.initial_state(1))[0]
    assert torch.equal(output[1, 6:], changed[1, 6:])
    torch.testing.assert_close(output[1:2, 6:], fresh, atol=1e-6, rtol=1e-5)


def test_the_gradient_reaches_back_to_the_start_and_no_further() -> None:
    core, starts = LSTMCore(INPUT, H), starts_of("none")
    starts[:, 4] = True
    x = torch.randn(B, T, INPUT, requires_grad=True)
    core(x, core.initial_state(B), starts)[0][:, 8].sum().backward()
    reached = x.grad.abs().sum((0, 2)) > 0
    assert reached.tolist() == [4 <= t <= 8 for t in range(T)]


@pytest.mark.parametrize("layers", LAYERS)
def test_state_is_batch_first_and_rows_permute(layers: int) -> None:
    core = LSTMCore(INPUT, H, num_layers=layers)
    state, x = random_state(core), torch.randn(B, INPUT)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert {each.shape[0] for each in state.values()} == {B}
    assert state["lstm_h"].shape == ((B, H) if layers == 1 else (B, layers, H))
    turned, _ = core.step(x[order], {key: value[order] for key, value in state.items()})
    torch.testing.assert_close(turned, core.step(x, state)[0][order])


@pytest.mark.parametrize("kind", ["none", "random", "dense"])
def test_the_state_that_goes_in_is_not_written(kind: str) -> None:
    core = LSTMCore(INPUT, H)
    state = random_state(core)
    before = {key: value.clone() for key, value in state.items()}
    core(torch.randn(B, T, INPUT), state, starts_of(kind))
    core.step(torch.randn(B, INPUT), state)
    core.reset(state, torch.ones(B, dtype=torch.bool))
    torch.testing.assert_close(state, before, atol=0, rtol=0)


def test_weights_are_orthogonal_for_each_gate_and_biases_zero() -> None:
    core = LSTMCore(8, 8, num_layers=2)
    for name, parameter in core.named_parameters():
        if "bias" in name:
            assert not parameter.any()
            continue
        for gate in parameter.detach().chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)


def test_every_tensor_is_stored_once() -> None:
    core = LSTMCore(128, 128)
    assert sum(each.numel() for each in core.state_dict().values()) == 132_096
    assert len({each.data_ptr() for each in core.state_dict().values()}) == len(core.state_dict())


def test_copies_and_pickles_compute_the_same() -> None:
    core, x = LSTMCore(INPUT, H), torch.randn(B, T, INPUT)
    expected = core(x, core.initial_state(B))[0]
    for again in (copy.deepcopy(core), pickle.loads(pickle.dumps(core))):
        assert torch.equal(again(x, again.initial_state(B))[0], expected)
        with torch.no_grad():
            again.lstm.weight_ih_l0.zero_()
        assert not torch.equal(again.step(x[:, 0], again.initial_state(B))[0], expected[:, 0])


def test_a_double_core_has_a_double_state() -> None:
    core = LSTMCore(INPUT, H).double()
    state = core.initial_state(B)
    assert state["lstm_h"].dtype == torch.float64
    assert core.step(torch.randn(B, INPUT).double(), state)[0].dtype == torch.float64


def test_a_thousand_steps_stay_finite_at_large_inputs() -> None:
    core = LSTMCore(INPUT, H)
    with torch.no_grad():
        output, state = core(torch.randn(2, 1024, INPUT) * 1e6, core.initial_state(2))
    assert output.isfinite().all()
    assert state["lstm_c"].isfinite().all()


def test_no_layers_are_refused() -> None:
    with pytest.raises(BuildError, match="num_layers=0"):
        LSTMCore(INPUT, H, num_layers=0)
