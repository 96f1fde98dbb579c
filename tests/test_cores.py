"""Every core agrees with references of others, stepwise and in sequence, with resets anywhere."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from specimens import REFERENCE
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import BuildError
from puffer_policies.nn.cores import fused
from puffer_policies.nn.cores.base import Core, bounded_starts, idle_steps
from puffer_policies.nn.cores.flush import count_starts, in_one_buffer, make_flush
from puffer_policies.nn.cores.fused import FUSED_STEP_ROWS, FusedCore
from puffer_policies.nn.cores.gru import GRUCore
from puffer_policies.nn.cores.lstm import LSTMCore
from puffer_policies.nn.cores.mingru import MinGRUCore
from puffer_policies.nn.cores.rnn import RNNCore
from puffer_policies.nn.cores.scan import linear_scan, rectified_scan, rectify

FUSED = {LSTMCore: nn.LSTM, GRUCore: nn.GRU, RNNCore: nn.RNN}
CORES = [*FUSED, MinGRUCore]

B, T, INPUT, H = 5, 12, 6, 7
LAYERS = [1, 2, 3]
STARTS = ["none", "first", "middle", "last", "consecutive", "whole", "random", "one row", "dense"]
DEPTHS_AND_STARTS = [*((1, starts) for starts in STARTS), (2, "random"), (3, "dense")]
"""All starts in one layer; more layers repeat what one does, each with a state of its own."""


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


def random_state(core: Core, batch: int = B) -> dict[str, Tensor]:
    return {key: torch.randn_like(value) for key, value in core.initial_state(batch).items()}


def torch_layer(core: FusedCore, *, double: bool = False) -> nn.RNNBase:
    """torch's own layer with the core's weights."""
    layer = FUSED[type(core)](core.input_size, core.hidden_size, core.num_layers, batch_first=True)
    layer.load_state_dict(core.layers.state_dict())
    return layer.double() if double else layer


def layers_first(core: FusedCore, state: dict[str, Tensor]):
    shape = (-1, core.num_layers, core.hidden_size)
    parts = [state[key].reshape(shape).transpose(0, 1).contiguous() for key in state]
    return tuple(parts) if len(parts) > 1 else parts[0]


def reference(core: FusedCore, x: Tensor, state: dict[str, Tensor], starts: Tensor) -> Tensor:
    """A plain float64 loop over the steps and rows' resets, one call of torch's layer a step."""
    layer = torch_layer(core, double=True)
    shape = (-1, core.num_layers, core.hidden_size)
    parts = [state[key].double().reshape(shape).transpose(0, 1).contiguous() for key in state]
    outputs = []
    for t in range(x.shape[1]):
        for row in range(len(x)):
            if starts[row, t]:
                for part in parts:
                    part[:, row] = 0.0
        given = tuple(parts) if len(parts) > 1 else parts[0]
        output, after = layer(x[:, t : t + 1].double(), given)
        parts = [each.clone() for each in (after if isinstance(after, tuple) else (after,))]
        outputs.append(output)
    return torch.cat(outputs, 1)


def mingru_reference(
    core: MinGRUCore, x: Tensor, state: dict[str, Tensor], starts: Tensor
) -> Tensor:
    """The paper's equations, one row and one step at a time, in float64."""
    h = state["lstm_h"].double().reshape(len(x), core.num_layers, -1).clone()
    outputs = torch.zeros(*x.shape[:2], core.hidden_size, dtype=torch.float64)
    for row in range(len(x)):
        for t in range(x.shape[1]):
            if starts[row, t]:
                h[row] = 0.0
            y = x[row, t].double()
            for k, layer in enumerate(core.layers):
                linear = copy.deepcopy(layer.linear).double()
                candidate, gate, *rest = linear(y).chunk(3 if layer.highway else 2)
                z = torch.sigmoid(gate)
                g = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
                h[row, k] = (1 - z) * h[row, k] + z * g
                if rest:
                    mix = torch.sigmoid(rest[0])
                    y = mix * h[row, k] + (1 - mix) * y
                else:
                    y = h[row, k]
            outputs[row, t] = y
    return outputs


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kind", FUSED)
def test_a_sequence_without_starts_is_torchs_layer(kind: type[FusedCore], layers: int) -> None:
    core = kind(INPUT, H, num_layers=layers)
    x, state = torch.randn(B, T, INPUT), random_state(core)
    expected, end = torch_layer(core)(x, layers_first(core, state))
    output, after = core(x, state)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(layers_first(core, after), end)


@pytest.mark.parametrize(("layers", "starts"), DEPTHS_AND_STARTS)
@pytest.mark.parametrize("kind", FUSED)
def test_steps_sequence_and_a_float64_loop_agree(
    kind: type[FusedCore], layers: int, starts: str
) -> None:
    core = shaken(kind(INPUT, H, num_layers=layers))
    x, before, given = torch.randn(B, T, INPUT), random_state(core), starts_of(starts)
    with torch.no_grad():
        require_parity(core, x, before, given, reference(core, x, before, given))


@pytest.mark.parametrize(("layers", "starts"), DEPTHS_AND_STARTS)
@pytest.mark.parametrize("highway", [False, True])
def test_a_mingru_follows_the_papers_equations(highway: bool, layers: int, starts: str) -> None:
    core = shaken(MinGRUCore(H, H, num_layers=layers, highway=highway))
    x, before, given = torch.randn(B, T, H), random_state(core), starts_of(starts)
    with torch.no_grad():
        require_parity(core, x, before, given, mingru_reference(core, x, before, given))


def shaken(core: Core) -> Core:
    """Give the biases, which are born zero, something to do, and flush steps a chance."""
    if isinstance(core, FusedCore):
        core.layers.flush_share = 0.8
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return core


def require_parity(
    core: Core, x: Tensor, before: dict[str, Tensor], starts: Tensor, expected: Tensor
) -> None:
    output, after = core(x, before, starts)
    state, stepped = before, []
    for t in range(x.shape[1]):
        hidden, state = core.step(x[:, t], core.reset(state, starts[:, t]))
        stepped.append(hidden)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(stepped, 1), output, atol=1e-5, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_scan_is_its_closed_form(dtype: torch.dtype) -> None:
    decay, drive = torch.rand(6, 2, 3, dtype=dtype), torch.randn(6, 2, 3, dtype=dtype)
    initial = torch.randn(2, 3, dtype=dtype)
    for t, h in enumerate(linear_scan(decay, drive, initial)):
        closed = decay[: t + 1].prod(0) * initial
        for s in range(t + 1):
            closed = closed + decay[s + 1 : t + 1].prod(0) * drive[s]
        torch.testing.assert_close(h, closed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_rectified_scan_bounds_every_number_from_below(dtype: torch.dtype) -> None:
    decay, drive = torch.rand(6, 2, 3, dtype=dtype), torch.randn(6, 2, 3, dtype=dtype)
    h = torch.randn(2, 3, dtype=dtype)
    for t, state in enumerate(rectified_scan(decay, drive, h)):
        h = rectify(decay[t] * h + drive[t])
        torch.testing.assert_close(state, h)
        numbers = torch.view_as_real(h) if dtype.is_complex else h
        assert float(numbers.min()) >= 0


@pytest.mark.parametrize("scan", [linear_scan, rectified_scan])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_scans_gradient_is_right(dtype: torch.dtype, scan: Callable[..., Tensor]) -> None:
    given = [torch.rand(5, 2, 3, dtype=dtype), torch.randn(5, 2, 3, dtype=dtype)]
    given.append(torch.randn(2, 3, dtype=dtype))
    assert torch.autograd.gradcheck(scan, [each.requires_grad_() for each in given])


def test_a_long_scan_keeps_float32s_accuracy() -> None:
    core = MinGRUCore(INPUT, H)
    x = torch.randn(2, 1024, INPUT) * 20
    with torch.no_grad():
        output, _ = core(x, core.initial_state(2))
        wide = copy.deepcopy(core).double()
        expected, _ = wide(x.double(), wide.initial_state(2))
    torch.testing.assert_close(output.double(), expected, atol=1e-4, rtol=1e-5)


def test_flush_steps_stand_before_the_starts_and_padding_behind_the_row() -> None:
    starts = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    flush = make_flush(starts, most=count_starts(starts))
    assert flush.places.reshape(3, 4).tolist() == [[0, 1, 3, 5], [6, 7, 8, 9], [12, 14, 15, 16]]
    assert flush.flags[..., 0].tolist() == [
        [0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
    ]
    assert flush.flags[..., 1].tolist() == [[0] * 6, [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]]


def test_weights_for_cudnn_lie_one_behind_the_other_from_the_beginning_of_a_memory() -> None:
    own = [torch.randn(12, 5), torch.randn(12, 4), torch.randn(12), torch.randn(12)]
    weights = in_one_buffer(own)
    addresses = [each.data_ptr() for each in weights]
    assert weights[0].storage_offset() == 0
    assert len({each.untyped_storage().data_ptr() for each in weights}) == 1
    for each, address, after in zip(weights, addresses, addresses[1:], strict=False):
        assert each.is_contiguous()
        assert address + each.nbytes == after
    assert weights[0].untyped_storage().nbytes() == sum(each.nbytes for each in own)
    torch.testing.assert_close(weights, own, atol=0, rtol=0)


@pytest.mark.parametrize("most", [2, 4, T - 1])
@pytest.mark.parametrize("kind", CORES)
def test_a_bound_of_the_starts_changes_no_result_and_reads_nothing_back(
    kind: type[Core], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, starts = shaken(kind(INPUT, H)), starts_of("none")
    starts[1, [3, 7]], starts[2, 0] = True, True
    x, state, results = torch.randn(B, T, INPUT), random_state(core), []
    for bound in (None, most):
        core.zero_grad()
        with nullcontext() if bound is None else bounded_starts(core, bound):
            if bound is not None:
                monkeypatch.setattr(Tensor, "__bool__", None)
                monkeypatch.setattr(Tensor, "__int__", None)
            output, after = core(x, state, starts)
            monkeypatch.undo()
        output.square().sum().backward()
        results.append([output, *after.values(), *(each.grad for each in core.parameters())])
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)
    assert core.most_starts is None


def idle_before(starts: Tensor) -> Tensor:
    """Every step before a start, and one that is before none."""
    idle = torch.cat([starts[:, 1:], torch.zeros(len(starts), 1, dtype=torch.bool)], 1)
    idle[0, 9] = True
    return idle


def gradients_of(core: Core, x: Tensor, state: dict, starts: Tensor, read: Tensor) -> list[Tensor]:
    """Run a sequence, and return what is read of its output, with the gradients by all inputs."""
    core.zero_grad()
    x = x.clone().requires_grad_()
    before = {key: each.clone().requires_grad_() for key, each in state.items()}
    output, _ = core(x, before, starts)
    (output * read.unsqueeze(-1)).square().sum().backward()
    inputs = [x, *before.values(), *core.parameters()]
    return [output[read].detach(), *(each.grad for each in inputs)]


@pytest.mark.parametrize("is_cudnn", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", CORES)
def test_a_step_that_nobody_reads_empties_the_state_and_changes_nothing_else(
    kind: type[Core], layers: int, is_cudnn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_is_cudnn", lambda _: is_cudnn)
    core, starts = shaken(kind(INPUT, H, num_layers=layers)), starts_of("none")
    starts[:, 0], starts[1, [3, 7]], starts[2, 5], starts[3, -1] = True, True, True, True
    idle, x, state = idle_before(starts), torch.randn(B, T, INPUT), random_state(core)
    expected = gradients_of(core, x, state, starts, ~idle)
    flushed = []
    monkeypatch.setattr(
        fused, "make_flush", lambda *_, **__: flushed.append(1) or make_flush(*_, **__)
    )
    x[idle & starts.roll(-1, 1)] += 100.0  # whatever it shows: the state ends there
    with idle_steps(core, idle):
        actual = gradients_of(core, x, state, starts, ~idle)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert core.idle is None
    # One step cannot empty what takes two.
    assert bool(flushed) is (kind is RNNCore)


@pytest.mark.parametrize("kind", FUSED)
def test_where_a_start_has_no_idle_step_before_it_all_is_as_without(kind: type[FusedCore]) -> None:
    core, starts = shaken(kind(INPUT, H)), starts_of("random")
    starts[1, [3, 7]] = True
    idle, x, state = idle_before(starts), torch.randn(B, T, INPUT), random_state(core)
    idle[1, 2] = False
    everything = torch.ones_like(idle)
    expected = gradients_of(core, x, state, starts, everything)
    for given in (idle, idle[:2]):  # the second is of another batch
        with idle_steps(core, given):
            actual = gradients_of(core, x, state, starts, everything)
        torch.testing.assert_close(actual, expected, atol=0, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", FUSED)
def test_the_layout_for_cudnn_changes_no_number(
    kind: type[FusedCore], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few starts, as a GRU and an RNN step through many on a CPU.
    core, starts = shaken(kind(INPUT, H, num_layers=layers)), starts_of("none", time=64)
    starts[1, 5] = True
    monkeypatch.setattr(kind.layers_class, "flush_share", 1.0)
    x, state, results = torch.randn(B, 64, INPUT), random_state(core), []
    for is_cudnn in (False, True):
        monkeypatch.setattr(fused, "_is_cudnn", lambda _, answer=is_cudnn: answer)
        core.zero_grad()
        output, after = core(x, state, starts)
        output.square().sum().backward()
        results.append([output, *after.values(), *(each.grad for each in core.parameters())])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", FUSED)
def test_one_step_of_a_large_batch_agrees_with_the_cell(kind: type[FusedCore], layers: int) -> None:
    core = kind(INPUT, H, num_layers=layers)
    rows = FUSED_STEP_ROWS + 1
    x, state = torch.randn(rows, INPUT), random_state(core, rows)
    whole, after = core.step(x, state)
    part, part_after = core.step(x[:10], {key: each[:10] for key, each in state.items()})
    torch.testing.assert_close(whole[:10], part, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close({key: each[:10] for key, each in after.items()}, part_after)


@pytest.mark.parametrize(
    ("layers", "starts"), [(1, "random"), (1, "consecutive"), (1, "dense"), (2, "random")]
)
@pytest.mark.parametrize("kind", CORES)
def test_gradients_agree_with_a_float64_loop_of_steps(
    kind: type[Core], layers: int, starts: str
) -> None:
    core, given = shaken(kind(INPUT, H, num_layers=layers)), starts_of(starts)
    wide = copy.deepcopy(core).double()
    x, weight = torch.randn(B, T, INPUT), torch.randn(B, T, H)
    state = random_state(core)
    gradients = []
    for each, dtype in ((core, torch.float32), (wide, torch.float64)):
        inputs = x.detach().clone().to(dtype).requires_grad_()
        before = {
            key: value.detach().clone().to(dtype).requires_grad_() for key, value in state.items()
        }
        run = each if each is core else each.step_through
        (run(inputs, before, given)[0] * weight.to(dtype)).sum().backward()
        gradients.append([inputs.grad, *(p.grad for p in each.parameters())])
        gradients[-1] += [value.grad for value in before.values()]
    for own, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(own.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", CORES)
def test_the_past_before_a_start_changes_nothing_after_it(make: type[Core]) -> None:
    core, starts = make(INPUT, H), starts_of("none")
    starts[1, 6] = True
    x, state = torch.randn(B, T, INPUT), random_state(core)
    other, nan = x.clone(), {key: value.clone() for key, value in state.items()}
    other[1, :6] += 1.0
    nan[list(nan)[-1]][1] = torch.nan
    with torch.no_grad():
        output, changed = core(x, state, starts)[0], core(other, state, starts)[0]
        poisoned = core(other, nan, starts)[0]
        fresh = core(x[1:2, 6:], core.initial_state(1))[0]
    assert torch.equal(output[1, 6:], changed[1, 6:])
    assert poisoned[1, :6].isnan().any()
    torch.testing.assert_close(poisoned[1:2, 6:], fresh, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(output[1:2, 6:], fresh, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("make", CORES)
def test_the_gradient_reaches_back_to_the_start_and_no_further(make: type[Core]) -> None:
    core, starts = make(INPUT, H), starts_of("none")
    starts[:, 4] = True
    x = torch.randn(B, T, INPUT, requires_grad=True)
    core(x, core.initial_state(B), starts)[0][:, 8].sum().backward()
    reached = x.grad.abs().sum((0, 2)) > 0
    assert reached.tolist() == [4 <= t <= 8 for t in range(T)]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("make", CORES)
def test_state_is_batch_first_and_rows_permute(make: type[Core], layers: int) -> None:
    core = make(INPUT, H, num_layers=layers)
    state, x = random_state(core), torch.randn(B, INPUT)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert {each.shape[0] for each in state.values()} == {B}
    assert state["lstm_h"].shape == ((B, H) if layers == 1 else (B, layers, H))
    turned, _ = core.step(x[order], {key: value[order] for key, value in state.items()})
    torch.testing.assert_close(turned, core.step(x, state)[0][order])


@pytest.mark.parametrize("kind", ["none", "random", "dense"])
@pytest.mark.parametrize("make", CORES)
def test_the_state_that_goes_in_is_not_written(make: type[Core], kind: str) -> None:
    core = make(INPUT, H)
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


@pytest.mark.parametrize("make", CORES)
def test_copies_and_pickles_compute_the_same(make: type[Core]) -> None:
    core, x = make(INPUT, H), torch.randn(B, T, INPUT)
    expected = core(x, core.initial_state(B))[0]
    for again in (copy.deepcopy(core), pickle.loads(pickle.dumps(core))):
        assert torch.equal(again(x, again.initial_state(B))[0], expected)
        with torch.no_grad():
            next(again.parameters()).zero_()
        assert not torch.equal(again.step(x[:, 0], again.initial_state(B))[0], expected[:, 0])


@pytest.mark.parametrize("make", CORES)
def test_a_double_core_has_a_double_state(make: type[Core]) -> None:
    core = make(INPUT, H).double()
    state = core.initial_state(B)
    assert state["lstm_h"].dtype == torch.float64
    assert core.step(torch.randn(B, INPUT).double(), state)[0].dtype == torch.float64


@pytest.mark.parametrize("make", CORES)
def test_a_thousand_steps_stay_finite_at_large_inputs(make: type[Core]) -> None:
    core = make(INPUT, H)
    with torch.no_grad():
        output, state = core(torch.randn(2, 1024, INPUT) * 1e6, core.initial_state(2))
    assert output.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("make", CORES)
def test_no_layers_are_refused(make: type[Core]) -> None:
    with pytest.raises(BuildError, match="num_layers=0"):
        make(INPUT, H, num_layers=0)


def test_a_highway_needs_equal_sizes() -> None:
    with pytest.raises(BuildError, match=f"{INPUT} wide, to the output, {H} wide"):
        MinGRUCore(INPUT, H, highway=True)


@pytest.mark.parametrize(
    ("core", "count"),
    [
        (lambda: LSTMCore(128, 128), 132_096),
        (lambda: GRUCore(128, 128), 99_072),
        (lambda: RNNCore(128, 128), 33_024),
        (lambda: MinGRUCore(128, 128), 33_024),
        (lambda: MinGRUCore(128, 128, highway=True), 49_152),
        (lambda: MinGRUCore(128, 128, num_layers=4, highway=True), 196_608),
    ],
)
def test_parameter_counts_are_the_published_ones(core, count: int) -> None:
    assert sum(each.numel() for each in core().parameters()) == count


@pytest.mark.parametrize(
    "stack",
    ["GTrXLWrapper(Default, memory=4)", "MinGRUWrapper(Default, num_layers=2, highway=True)"],
)
def test_gates_between_layers_run_in_half_precision(stack):
    policy = get_policy(stack, REFERENCE, hidden_size=16)
    with torch.autocast("cpu", torch.bfloat16):
        _, values = policy(torch.randn(2, 5, 8))
        values.float().sum().backward()
    assert values.isfinite().all()


def _prune(layers: nn.Module) -> None:
    prune.l1_unstructured(layers, "weight_hh_l0", 0.5)


COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "parametrization": lambda layers: parametrizations.weight_norm(layers, "weight_hh_l0"),
    "pruning": _prune,
}


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("kind", FUSED)
def test_a_weight_that_is_computed_is_that_of_its_parameters_now(
    kind: type[FusedCore], name: str
) -> None:
    core, x = kind(3, 5), torch.randn(2, 4, 3)
    COMPUTED[name](core.layers)
    before = core(x, core.initial_state(2))[0]
    with torch.no_grad():
        for each in core.parameters():
            each.mul_(3)
    plain = kind(3, 5)  # with the numbers that were computed
    core.layers()
    plain.load_state_dict(
        {f"layers.{key}": getattr(core.layers, key) for key in plain.layers.state_dict()}
    )
    for _ in range(2):
        after = core(x, core.initial_state(2))[0]
        after.sum().backward()
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, plain(x, plain.initial_state(2))[0])
    step, _ = core.step(x[:, 0], core.initial_state(2))
    torch.testing.assert_close(step, after[:, 0])
    assert all(each.grad is not None for each in core.parameters())
