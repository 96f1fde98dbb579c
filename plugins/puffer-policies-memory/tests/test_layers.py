"""What is one memory's own: its size, how it begins, what it refuses, and its name."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces

from puffer_policies import Spaces, get_policy
from puffer_policies.errors import BuildError
from puffer_policies.registry import default_registry
from puffer_policies_memory import associative, mamba, stack
from puffer_policies_memory.ffm import FFMCore, FFMWrapper
from puffer_policies_memory.gated_delta_net import (
    GatedDeltaNetCore,
    GatedDeltaNetLayer,
    GatedDeltaNetWrapper,
)
from puffer_policies_memory.linear_attention import (
    LinearAttentionCore,
    LinearAttentionWrapper,
    phi,
)
from puffer_policies_memory.lru import LRUCore, LRULayer, LRUWrapper
from puffer_policies_memory.mamba import MambaCore, MambaWrapper, Selected, selective_scan
from puffer_policies_memory.mamba2 import Mamba2Core, Mamba2Wrapper
from puffer_policies_memory.minlstm import MinLSTMCore, MinLSTMWrapper
from puffer_policies_memory.rtu import RTUCore, RTULayer, RTUWrapper
from puffer_policies_memory.s5 import S5Core, S5Wrapper, hippo_basis
from puffer_policies_memory.xlstm import (
    MLSTMCore,
    MLSTMLayer,
    MLSTMWrapper,
    SLSTMCore,
    SLSTMWrapper,
)

WRAPPERS: dict[str, Any] = {
    each.__name__: each
    for each in (
        FFMWrapper,
        GatedDeltaNetWrapper,
        LRUWrapper,
        LinearAttentionWrapper,
        MLSTMWrapper,
        Mamba2Wrapper,
        MambaWrapper,
        MinLSTMWrapper,
        RTUWrapper,
        S5Wrapper,
        SLSTMWrapper,
    )
}


@pytest.mark.parametrize(
    ("core", "count"),
    [
        (lambda: LRUCore(128, 128), 66_048),
        (lambda: FFMCore(128, 128), 74_212),
        (lambda: LinearAttentionCore(128, 128), 82_432),
        (lambda: S5Core(128, 128), 50_144),
        (lambda: S5Core(256, 256, num_layers=4, state_size=256), 1_057_280),
        (lambda: MambaCore(128, 128), 116_608),
        (lambda: Mamba2Core(128, 128), 109_528),
        (lambda: GatedDeltaNetCore(128, 128), 85_032),
        (lambda: MLSTMCore(128, 128), 137_232),
        (lambda: SLSTMCore(128, 128), 82_816),
        (lambda: MinLSTMCore(128, 128), 49_536),
        (lambda: RTUCore(128, 128), 65_920),
        (lambda: LRUCore(64, 128, num_layers=2), 2 * 66_048 + 64 * 128 + 128),
    ],
)
def test_parameter_counts_are_the_stated_ones(core: Any, count: int) -> None:
    assert sum(each.numel() for each in core().parameters()) == count


# -- S5 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 8, 64])
def test_s5_begins_in_the_eigenbasis_of_hippos_normal_part(size: int) -> None:
    n = torch.arange(size, dtype=torch.float64)
    hippo = torch.diag(n) - torch.outer((2 * n + 1).sqrt(), (2 * n + 1).sqrt()).tril()
    normal = (hippo + torch.outer((n + 0.5).sqrt(), (n + 0.5).sqrt())).to(torch.complex128)
    frequencies, vectors = hippo_basis(size)
    values = torch.complex(torch.full_like(frequencies, -0.5), frequencies)
    torch.testing.assert_close(normal @ vectors, vectors * values)
    both = torch.cat([vectors, vectors.conj()], 1)
    torch.testing.assert_close(both.mH @ both, torch.eye(size, dtype=torch.complex128))


def test_an_s5_turns_as_exactly_as_float32_can_hold() -> None:
    space = S5Core(4, 4, state_size=256).layers[0].space
    decay = space.discrete()[0].detach()
    rounded = decay.to(torch.complex64).to(torch.complex128)
    assert float((rounded - decay).abs().max()) < 1e-7
    assert float(decay.abs().max()) < 1


@pytest.mark.parametrize("size", [0, 5])
def test_an_s5_without_pairs_is_refused(size: int) -> None:
    with pytest.raises(BuildError, match=f"state_size={size}.*conjugate pairs"):
        S5Core(4, 4, state_size=size)


# -- LRU -------------------------------------------------------------------------------------------


def test_an_lru_begins_on_its_ring_and_stays_stable() -> None:
    layer = LRULayer(500, r_min=0.5, r_max=0.9)
    modulus = layer.decay().detach().abs()
    assert 0.5 < float(modulus.min()) < 0.55
    assert 0.85 < float(modulus.max()) < 0.9
    gamma = layer.gamma_log.detach().double().exp()
    torch.testing.assert_close(gamma, (1 - modulus**2).sqrt(), atol=1e-6, rtol=0)
    with torch.no_grad():
        layer.nu_log.uniform_(-20, 20)
    assert float(layer.decay().detach().abs().max()) < 1


def test_one_lru_layer_carries_the_tensors_of_pufferlibs_trainer() -> None:
    assert LRUCore(4, 8).state_shapes(3) == {"lstm_h": (3, 8), "lstm_c": (3, 8)}
    assert LRUCore(4, 8, num_layers=2).state_shapes(3) == {"lstm_h": (3, 2, 8), "lstm_c": (3, 2, 8)}


@pytest.mark.parametrize("ring", [(-0.1, 1.0), (0.0, 1.1), (0.9, 0.9), (0.9, 0.1)])
def test_a_ring_outside_the_disc_is_refused(ring: tuple[float, float]) -> None:
    with pytest.raises(BuildError, match=f"r_min={ring[0]} and r_max={ring[1]}"):
        LRUCore(4, 8, r_min=ring[0], r_max=ring[1])


# -- RTU -------------------------------------------------------------------------------------------


def test_an_rtus_state_keeps_the_size_of_its_input_whatever_its_decay() -> None:
    layer = RTULayer(500, linear=False, r_min=0.0, r_max=1.0)
    modulus = layer.decay().detach().abs()
    torch.testing.assert_close(layer.gamma().double().square() + modulus.square(), 1 + 0 * modulus)
    with torch.no_grad():
        layer.nu_log.uniform_(-20, 20)
    gamma = layer.gamma()
    gamma.sum().backward()
    assert float(gamma.detach().min()) > 0
    assert layer.nu_log.grad is not None
    assert layer.nu_log.grad.isfinite().all()


# -- FFM -------------------------------------------------------------------------------------------


def test_ffms_traces_begin_between_a_step_and_a_thousand() -> None:
    modulus = FFMCore(4, 8).layers[0].decay().detach().abs()[:, 0]
    assert float(modulus[0]) == pytest.approx(0.5)
    assert float(modulus[-1]) ** 1024 == pytest.approx(0.01, rel=1e-3)
    assert bool((modulus.diff() > 0).all())


def test_an_ffm_without_traces_is_refused() -> None:
    with pytest.raises(BuildError, match="memory_size=0"):
        FFMCore(4, 8, memory_size=0)


# -- linear attention ------------------------------------------------------------------------------


def test_phi_is_elu_plus_one_without_its_rounding() -> None:
    x = torch.linspace(-40, 40, 1001)
    exact = torch.nn.functional.elu(x.double()) + 1
    far = x < -5  # where 1 - 1 would leave nothing
    torch.testing.assert_close(phi(x).double()[~far], exact[~far], atol=0, rtol=1e-5)
    torch.testing.assert_close(phi(x).double()[far], x.double()[far].exp(), atol=0, rtol=1e-5)


def test_half_of_what_the_slowest_head_summed_is_left_after_the_half_life() -> None:
    core = LinearAttentionCore(4, 8, num_heads=2, half_life=9.0)
    keep = core.layers[0].keep
    assert isinstance(keep, torch.Tensor)
    left = [float(keep[0]) ** 3, float(keep[1]) ** 9]
    assert left == pytest.approx([0.5, 0.5])
    state = core.initial_state(2)
    state["attention_sum"].fill_(1e6)  # drowns what is added
    after = core.step(torch.zeros(2, 4), state)[1]
    expected = (1e6 * keep).reshape(1, 2, 1, 1).expand(2, 2, 4, 4)
    torch.testing.assert_close(after["attention_sum"], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("half_life", [0, -1.0])
def test_a_half_life_is_above_zero(half_life: float) -> None:
    with pytest.raises(BuildError, match="half_life="):
        LinearAttentionCore(4, 8, half_life=half_life)


def test_attention_knows_the_time_since_the_episodes_start() -> None:
    core, starts = LinearAttentionCore(4, 8), torch.zeros(1, 6, dtype=torch.bool)
    starts[0, 4] = True
    _, state = core(torch.zeros(1, 6, 4), core.initial_state(1), starts)
    assert state["attention_time"].tolist() == [2.0]
    _, state = core(torch.zeros(1, 3, 4), state)
    assert state["attention_time"].tolist() == [5.0]


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (64, 2), (128, 4)])
def test_heads_are_32_wide_by_default(width: int, heads: int) -> None:
    size = width // heads
    shapes = LinearAttentionCore(4, width).state_shapes(3)
    assert shapes["attention_sum"] == (3, heads, size, size)


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(BuildError, match="not a multiple of num_heads=3"):
        LinearAttentionCore(4, 8, num_heads=3)


# -- associative memories --------------------------------------------------------------------------


def unit_keys(steps: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.rand(2, 1, steps, 4) + 0.1, dim=-1)


def test_what_a_step_forgets_costs_later_steps_no_digits() -> None:
    decay = -torch.rand(2, 3, 12) / 10
    decay[..., 5] = -1e6
    shares = associative.shares_of(decay, torch.zeros(2, 12, dtype=torch.long), torch.float32)
    expected = decay.double()[..., 6:].cumsum(-1).exp()
    torch.testing.assert_close(shares.within[..., 6:, 5].double(), expected, rtol=1e-6, atol=0)
    assert not shares.within[..., 5:, :5].any()


def test_the_delta_rule_replaces_the_value_of_a_key() -> None:
    keys, values, whole = unit_keys(3), torch.randn(2, 1, 3, 4), torch.ones(2, 1, 3, 1)
    keys[:, :, 2] = keys[:, :, 0]
    parts = (keys, keys, values, torch.zeros(2, 1, 3), whole)
    empty, read = torch.zeros(2, 1, 4, 4), GatedDeltaNetLayer._read
    output, memory = associative.by_chunks(read, parts, empty, None)
    torch.testing.assert_close(output, values)  # each key has its latest value
    torch.testing.assert_close(keys[:, :, 2:] @ memory, values[:, :, 2:])


@pytest.mark.parametrize("gain", [-500.0, 500.0])
def test_an_exponential_gain_neither_overflows_nor_vanishes_beside_another(gain: float) -> None:
    keys, values = unit_keys(6), torch.randn(2, 1, 6, 4)
    gains = torch.zeros(2, 1, 6)
    gains[..., 2] = gain
    parts = (keys, keys, torch.nn.functional.pad(values, (0, 1), value=1.0), 0 * gains, gains)
    carried = (torch.zeros(2, 1, 4, 5), torch.zeros(2, 1))
    output, (memory, scale) = associative.by_chunks(MLSTMLayer._read, parts, carried, None)
    assert output.isfinite().all()
    assert memory.isfinite().all()
    assert scale.tolist() == [[max(gain, 0.0)]] * 2
    if gain > 0:  # nothing else counts from there on
        expected = values[:, :, 2:3].expand(2, 1, 4, 4)
        torch.testing.assert_close(output[:, :, 2:], expected, atol=1e-4, rtol=1e-4)


def test_fresh_forget_gates_lie_between_their_bounds() -> None:
    gates = MLSTMCore(4, 64).layers[0].gates
    torch.testing.assert_close(gates.bias[4:].detach(), torch.linspace(3, 6, 4))
    bias = SLSTMCore(4, 64).layers[0].input.bias.detach().view(2, 4, 32)
    torch.testing.assert_close(bias[:, 1], torch.linspace(0, 5, 32).expand(2, 32))
    assert not bias[:, [0, 2, 3]].any()


@pytest.mark.parametrize("kind", [GatedDeltaNetCore, Mamba2Core, MLSTMCore, SLSTMCore])
def test_memories_of_heads_refuse_an_unequal_share(kind: Any) -> None:
    with pytest.raises(BuildError, match="not a multiple of num_heads=3"):
        kind(4, 8, num_heads=3)


@pytest.mark.parametrize("kind", [GatedDeltaNetCore, Mamba2Core, MLSTMCore])
def test_a_convolution_of_one_step_is_refused(kind: Any) -> None:
    with pytest.raises(BuildError, match="d_conv=1"):
        kind(4, 8, d_conv=1)


# -- Mamba -----------------------------------------------------------------------------------------


def test_mambas_steps_begin_between_their_bounds() -> None:
    space = MambaCore(4, 64).layers[0].space
    steps = torch.nn.functional.softplus(space.step_size.bias.detach())
    assert 0.00099 < float(steps.min()) < 0.002
    assert 0.05 < float(steps.max()) < 0.101
    rates = space.log_rate.detach().exp()
    torch.testing.assert_close(rates, torch.arange(1.0, 17.0).expand(128, 16))


def test_mambas_convolution_is_torchs() -> None:
    torch.manual_seed(0)
    convolution, x = MambaCore(4, 8).layers[0].convolution, torch.randn(9, 2, 16)
    own, last = convolution(x, torch.zeros(2, 3, 16), None)
    padded = torch.nn.functional.pad(x.permute(1, 2, 0), (3, 0))
    weight = convolution.weight.t().unsqueeze(1)
    theirs = torch.nn.functional.conv1d(padded, weight, convolution.bias, groups=16)
    torch.testing.assert_close(own, theirs.permute(2, 0, 1))
    torch.testing.assert_close(last, x[-3:].transpose(0, 1))


@pytest.mark.parametrize("sizes", [{"d_conv": 1}, {"d_state": 0}, {"expand": 0}])
def test_a_mamba_without_a_part_is_refused(sizes: dict[str, int]) -> None:
    name, value = next(iter(sizes.items()))
    with pytest.raises(BuildError, match=f"{name}={value}"):
        MambaCore(4, 8, **sizes)


# -- names -----------------------------------------------------------------------------------------


def test_the_installed_package_registers_its_wrappers() -> None:
    records = default_registry().records("wrapper")
    ours = [each for each in records if each.provenance.distribution == "puffer-policies-memory"]
    assert {each.name: each.load() for each in ours} == WRAPPERS
    assert all(each.summary and each.paper for each in ours)


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_names_build_and_compose(name: str) -> None:
    env = gymnasium.make("CartPole-v1")
    try:
        policy = get_policy(f"{name}(Default(hidden_size=32), num_layers=2)", env)
    finally:
        env.close()
    logits, values = policy.forward_eval(torch.randn(2, 4), policy.initial_state(2))
    assert (logits.shape, values.shape) == ((2, 2), (2, 1))


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_the_first_policy_is_nearly_uniform(name: str) -> None:
    torch.manual_seed(0)
    env = Spaces(spaces.Box(-1.0, 1.0, (8,)), spaces.Discrete(4))
    logits, _ = get_policy(f"{name}(Default)", env)(torch.randn(16, 20, 8))
    assert float(logits.detach().softmax(-1).max()) < 0.26


# -- the selective scan ----------------------------------------------------------------------------


@pytest.mark.parametrize("with_starts", [False, True])
def test_the_selective_scans_gradient_is_that_of_finite_differences(with_starts: bool) -> None:
    steps, batch, channels, size = 4, 2, 3, 2
    shapes = [(steps, batch, channels)] * 2 + [(steps, batch, size)] * 2
    step, u, enter, leave = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    rate = torch.rand(channels, size, dtype=torch.float64) + 0.5
    before = torch.randn(batch, channels, size, dtype=torch.float64)
    starts = torch.rand(steps, batch) < 0.3 if with_starts else None
    given = [step.exp(), u, enter, leave, rate, before]

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        *selected, rate, before = inputs
        return selective_scan(Selected(*selected), rate, before=before, starts=starts)

    assert torch.autograd.gradcheck(run, [each.requires_grad_() for each in given])


@pytest.mark.parametrize(
    "name", ["S5Wrapper", "LRUWrapper", "FFMWrapper", "MambaWrapper", "RTUWrapper"]
)
def test_what_stands_in_while_a_pass_is_exported_gives_the_same(name, monkeypatch):
    pair = Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    policy = get_policy(f"{name}(Default(hidden_size=16), num_layers=2)", pair)
    observations, starts = torch.randn(3, 6, 4), torch.rand(3, 6) < 0.3
    expected, states = policy(observations, {"episode_start": starts}), []
    for exporting in (False, True):
        for module in (stack, mamba):
            monkeypatch.setattr(module, "is_exporting", lambda exporting=exporting: exporting)
        states.append({"episode_start": starts})
        logits, values = policy(observations, states[-1])
        torch.testing.assert_close((logits, values), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)
