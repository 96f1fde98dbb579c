"""An exported policy acts as it does in PyTorch, in any number of rows, resets included."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from gymnasium import spaces as gym
from plain_policies import Split
from tool_files import load_tool

from puffer_policies.agent import Agent
from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import BuildError, CheckpointError, ExportError, MissingDependency
from puffer_policies.export.api import export_policy
from puffer_policies.export.graph import Graph, play
from puffer_policies.export.recording import record_step
from puffer_policies.export.source import source_of
from puffer_policies.export.step import Step
from puffer_policies.export.styles import STYLES
from puffer_policies.export.targets import TARGETS
from puffer_policies.registry import default_registry
from puffer_policies.spaces import Spaces

TOOL, PAGE = load_tool("measure_export"), load_tool("write_export_page")
LIMIT = 1e-4

HAS_ONNX = all(importlib.util.find_spec(each) for each in ("onnx", "onnxruntime", "onnxscript"))
NO_ONNX = "the extra export (onnx, onnxruntime, onnxscript) is not installed"
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason=NO_ONNX)

VECTOR, BOX = gym.Box(-1, 1, (3,)), gym.Box(-2.0, 0.5, (2,))
LSTM = "LSTMWrapper(Default(hidden_size=8))"

TURN = 20
"""Of all stacks every so manieth is measured in an exhaustive run."""

SAMPLE = "GRUWrapper(Default(hidden_size=32))"
"""The stack of every run. docs/export.md, which the tests run, has another one in onnxruntime."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def noisy(expression: str, action: Any = None, observation: Any = VECTOR) -> torch.nn.Module:
    """Build a policy whose answers are not nearly zero."""
    action = gym.Discrete(3) if action is None else action
    policy = get_policy(expression, Spaces(observation, action))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return policy


# -- the whole zoo ---------------------------------------------------------------------------------


def pytest_generate_tests(metafunc):
    if "stack" in metafunc.fixturenames:
        # Only where they are run, as listing them imports every policy.
        stacks = TOOL.product()[0] if metafunc.config.getoption("--exhaustive") else []
        refused = TOOL.read_data().refused
        stacks = [each for each in stacks if each.expression not in refused][::TURN]
        metafunc.parametrize("stack", stacks, ids=[each.expression for each in stacks])


@needs_onnx
@pytest.mark.exhaustive
def test_a_stack_acts_alike_in_a_new_process_in_onnxruntime_and_in_a_recorded_program(stack):
    parity = TOOL.measure_exports(stack, TOOL.measure_loading(stack), strict=True)
    assert parity.loaded == 0
    assert max(parity.onnx, parity.torch) < LIMIT, parity


WIDE = {
    np.dtype(kind).name: gym.Box(0, 1 if kind == "?" else 9, (2, 3), kind)
    for kind in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "f2", "f4", "f8")
}


@needs_onnx
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("expression", "observation"),
    [
        ("FrameStackWrapper(Default(hidden_size=8))", gym.Dict(WIDE)),
        *(("DeepSets(hidden_size=8, padding=0)", WIDE[name]) for name in ("bool", "int16")),
    ],
)
def test_observations_of_every_dtype_are_stacked_and_emptied(expression, observation):
    stack = TOOL.Stack(expression, (Spaces(observation, gym.Discrete(3)),))
    parity = TOOL.measure_exports(stack, TOOL.measure_loading(stack))
    assert parity.loaded == 0
    assert max(parity.onnx, parity.torch) < LIMIT, parity


def test_a_step_is_recorded_strictly_for_any_number_of_rows():
    stack = TOOL.Stack(SAMPLE, (Spaces(VECTOR, gym.MultiDiscrete([2, 3])),))
    recording = record_step(TOOL.source(stack), "default", strict=True)
    assert TOOL.gaps([recording.program.module()], recording)[0] < LIMIT


def test_the_table_has_every_stack_and_no_difference_above_the_limit():
    data, registry = TOOL.read_data(), default_registry()
    policies, wrappers = registry.names("policy"), [*registry.names("wrapper"), PAGE.ALONE]
    stacks = {PAGE.names_of(each) for each in (*data.stacks, *data.refused)}
    assert {*itertools.product(policies, wrappers)} <= stacks, (
        "run `python tools/measure_export.py` for a new name, then `make docs`"
    )
    assert {each.loaded for each in data.stacks.values()} == {0}
    assert max(max(each.onnx, each.torch) for each in data.stacks.values()) < LIMIT


def test_the_page_is_current():
    assert PAGE.page() == PAGE.PAGE.read_text(encoding="utf-8"), "run `make docs`"


# -- the step --------------------------------------------------------------------------------------


def graph_of(policy: Any, style: str = "default") -> Graph:
    return STYLES[style](Step(policy, policy.spaces))


def names_of(graph: Graph) -> tuple[list[str], list[str]]:
    return [port.name for port in graph.inputs], [port.name for port in graph.outputs]


def test_a_step_has_what_the_policy_reads_and_nothing_else():
    assert names_of(graph_of(noisy("Default"))) == (["obs"], ["logits", "value", "action"])
    assert names_of(graph_of(noisy("ActionMaskWrapper(Default)")))[0] == ["obs", "action_mask"]
    nested = gym.Dict({"b": VECTOR, "a": gym.Tuple((VECTOR, gym.Discrete(2)))})
    inputs, outputs = names_of(graph_of(noisy(LSTM, BOX, nested)))
    state = ["state.lstm_h", "state.lstm_c"]
    assert inputs == ["obs.a.0", "obs.a.1", "obs.b", "episode_start", *state]
    assert outputs == ["mean", "std", "value", "action", *(f"next_{name}" for name in state)]


def test_parts_of_the_observation_need_names_of_their_own():
    same = gym.Dict({"a.b": VECTOR, "a": gym.Dict({"b": VECTOR})})
    with pytest.raises(ExportError, match=r"can't be exported: Two parts .*'obs\.a\.b'"):
        record_step(source_of(noisy("Default", observation=same)), "default")


def test_weights_of_half_precision_are_written_as_float32(project):
    policy = noisy("NormalizeObservationWrapper(LSTMWrapper(Default(hidden_size=8)))").bfloat16()
    graph = graph_of(policy)
    assert {port.dtype for port in graph.state} == {torch.float32}
    assert {each.dtype for each in policy.parameters()} == {torch.bfloat16}
    outputs = graph(graph.example())
    expected, _ = policy.forward_eval(torch.zeros(3, 3), policy.initial_state(3))
    torch.testing.assert_close(outputs["logits"], expected.float(), atol=3e-2, rtol=3e-2)
    assert export_policy(policy, "m.pt2", to="torch").exists()


def test_a_mask_in_the_observation_is_no_input_of_its_own():
    observation = gym.Dict({"mask": gym.MultiBinary(3), "x": VECTOR})
    policy = noisy("ActionMaskWrapper(Default, key='mask')", observation=observation)
    assert names_of(graph_of(policy))[0] == ["obs.mask", "obs.x"]


@pytest.mark.parametrize(
    "action", [gym.Discrete(3, start=4), gym.MultiDiscrete([[2, 3]]), BOX, gym.Box(-1, 2, (), int)]
)
def test_the_action_is_a_member_of_the_space_and_that_of_an_agent(action):
    policy = noisy(LSTM, action)
    graph, agent = graph_of(policy), Agent(policy)
    inputs = graph.example()
    for _ in range(4):
        inputs["obs"] = torch.randn(3, 3)
        outputs = graph(inputs)
        expected = agent.act(inputs["obs"].numpy())
        assert all(np.asarray(each) in action for each in expected)
        np.testing.assert_allclose(outputs["action"].detach(), expected, rtol=1e-6, atol=1e-6)
        inputs |= {name: outputs[key] for name, key in graph.carried.items()}
        inputs["episode_start"] = torch.zeros(3, dtype=torch.bool)


def test_what_the_state_holds_at_a_start_does_not_matter():
    for expression in (LSTM, "GTrXLWrapper(Default(hidden_size=32), memory=3)"):
        graph = graph_of(noisy(expression))
        inputs = graph.example() | {"episode_start": torch.ones(3, dtype=torch.bool)}
        other = dict(inputs)
        for port in graph.state:
            other[port.name] = torch.full_like(other[port.name], 1)
        first, second = graph(inputs), graph(other)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("style", ["rsl_rl", "ml-agents"])
@pytest.mark.parametrize(
    ("expression", "state"),
    [
        ("LSTMWrapper(Default(hidden_size=8), num_layers=2)", [(2, 1, 8), (2, 1, 8)]),
        ("GRUWrapper(Default(hidden_size=8))", [(1, 1, 8)]),
        ("FrameStackWrapper(Default(hidden_size=8), frames=3)", [(1, 1, 6)]),
        ("Default(hidden_size=8)", []),
    ],
)
def test_a_style_has_other_names_for_the_same_step(expression, state, style):
    step = Step(policy := noisy(expression, BOX), policy.spaces)
    graph = STYLES[style](step)
    if style == "rsl_rl":
        shapes = [port.shape for port in graph.inputs if port.name != "obs"]
        assert shapes == state
        name = "actions"
    else:
        sizes = [port.shape for port in graph.inputs if port.name == "recurrent_in"]
        assert sizes == ([(1, sum(map(np.prod, state)))] if state else [])
        name = "deterministic_continuous_actions"
    sample = step.sample()
    with torch.no_grad():
        expected, outputs = play(step, step, sample), play(graph, graph, graph.feed(sample))
    rows = slice(-1, None) if style == "rsl_rl" else slice(None)
    torch.testing.assert_close(outputs[name], expected["action"][:, rows])


def test_ml_agents_draws_what_the_mask_allows_also_for_a_policy_without_masks():
    graph = graph_of(noisy("Default(hidden_size=8)", gym.MultiDiscrete([2, 3])), "ml-agents")
    inputs = {"obs_0": torch.randn(200, 3), "action_masks": torch.tensor([[0.0, 1, 1, 0, 1]])}
    outputs = graph({**inputs, "action_masks": inputs["action_masks"].expand(200, -1)})
    for name in ("discrete_actions", "deterministic_discrete_actions"):
        assert set(map(tuple, outputs[name].tolist())) <= {(1, 0), (1, 2)}
    assert len(set(map(tuple, outputs["discrete_actions"].tolist()))) == 2
    assert outputs["discrete_action_output_shape"].tolist() == [[2, 3]]


# -- files -----------------------------------------------------------------------------------------

ONLY_TORCH = """
import base64, json, sys, torch
# The server of the tests may have imported it.
sys.modules.update({name: None for name in [*sys.modules] if name.startswith("puffer_policies")})
extra = {"puffer_policies.json": ""}
step = torch.export.load(sys.argv[1], extra_files=extra).module()
about = json.loads(extra["puffer_policies.json"])
def read(part):
    return {
        name: torch.frombuffer(bytearray(base64.b64decode(each["data"])),
                               dtype=getattr(torch, each["dtype"])).reshape(each["shape"])
        for name, each in about["sample"][part].items()
    }
inputs, expected = read("inputs"), read("outputs")
rows = inputs["obs"].shape[1]
state = {port["name"]: torch.zeros(rows, *port["shape"][1:], dtype=getattr(torch, port["dtype"]))
         for port in about["inputs"] if port["name"] in about["carried"]}
for t in range(len(inputs["obs"])):
    outputs = step({**{name: each[t] for name, each in inputs.items()}, **state})
    state = {name: outputs[key] for name, key in about["carried"].items()}
    for name, each in expected.items():
        torch.testing.assert_close(outputs[name], each[t])
"""


def test_a_program_that_has_torch_alone_plays_the_sample_in_the_file(project, forks):
    path = export_policy(noisy(LSTM), project / "m.pt2", to="torch")
    (project / "only_torch.py").write_text(ONLY_TORCH)
    process = forks.run(project / "only_torch.py", str(path), cwd=project, env=dict(os.environ))
    assert process.returncode == 0, process.stderr


@needs_onnx
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("style", "expression", "action"),
    [
        ("rsl_rl", LSTM, BOX),
        ("rsl_rl", "GTrXLWrapper(Default(hidden_size=32), memory=4)", BOX),
        ("ml-agents", LSTM, gym.MultiDiscrete([3, 2])),
        ("ml-agents", "SquashedGaussianWrapper(Default(hidden_size=8))", BOX),
        ("ml-agents", "ActionMaskWrapper(Default(hidden_size=8))", gym.Discrete(3)),
    ],
)
def test_a_style_is_written_to_onnx(project, style, expression, action):
    import onnx

    policy = noisy(expression, action)
    path = export_policy(policy, project / "m.onnx", style=style)
    model = onnx.load(path)
    inputs, outputs = names_of(graph_of(policy, style))
    assert [each.name for each in model.graph.input] == inputs
    assert [each.name for each in model.graph.output] == outputs
    if style == "rsl_rl":
        assert [each.version for each in model.opset_import if not each.domain] == [18]


def test_the_verb_writes_beside_the_checkpoint(project, capsys, recwarn):
    policy = noisy(LSTM)
    save_checkpoint(project / "m.safetensors", policy, env=policy.spaces)
    level = logging.root.manager.disable
    status, out, err = run(capsys, "export", "m.safetensors", "--to", "torch", "--json")
    assert (status, err) == (0, ""), err
    assert json.loads(out)["path"] == "m.pt2"
    assert not recwarn.list
    assert logging.root.manager.disable == level


def test_a_mistake_at_the_door_is_told_in_words(project, capsys):
    policy = noisy("Default")
    save_checkpoint(project / "m.safetensors", policy, env=policy.spaces)
    with pytest.raises(ExportError, match=r"(?s)no target 'onx'.*Did you mean 'onnx'") as caught:
        export_policy(policy, "x", to="onx")
    assert all(name in str(caught.value) for name in TARGETS)
    with pytest.raises(ExportError, match="no style 'rsl_rl' of an export; there is default"):
        export_policy(policy, "x", to="torch", style="rsl_rl")
    with pytest.raises(ExportError, match="Give a path as well"):
        export_policy(policy, to="torch")
    with pytest.raises(ExportError, match="no folder nowhere"):
        export_policy(policy, "nowhere/x.pt2", to="torch")
    with pytest.raises(CheckpointError, match="neither a run nor a checkpoint"):
        export_policy("missing", to="torch")
    with pytest.raises(BuildError, match="for which spaces"):
        export_policy(torch.nn.Linear(1, 1), "x.pt2", to="torch")
    status, _, err = run(capsys, "export", "m.safetensors", "--to", "onx")
    assert (status, "invalid choice: 'onx'" in err) == (2, True)


def test_without_the_extra_it_is_named(project, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingDependency, match=r'pip install "puffer-policies\[export\]"'):
        export_policy(noisy("Default"), "m.onnx")
    assert not (project / "m.onnx").exists()


# -- refusals --------------------------------------------------------------------------------------


class Branching(Split):
    """A branch on numbers, which no recording can follow."""

    def forward_eval(self, observations, state=None):
        logits, values = super().forward_eval(observations)
        return (logits * 2 if float(logits.sum()) > 0 else logits), values


class FixesRows(Split):
    """A length is a constant of the recording."""

    def forward_eval(self, observations, state=None):
        return super().forward_eval(observations.reshape(len(observations), -1))


class Random(Split):
    """Something else each time."""

    def forward_eval(self, observations, state=None):
        return super().forward_eval(observations + torch.rand(1))


class OddLogits(Split):
    """Logits of a type that nobody knows."""

    def forward_eval(self, observations, state=None):
        logits, values = super().forward_eval(observations)
        return SimpleNamespace(odd=logits), values


class HiddenMemory(Split):
    """PufferLib's form of a memory, which does not say what is in its state."""

    def forward_eval(self, observations, state=None):
        state["lstm_h"] = state["lstm_h"] + 1
        return super().forward_eval(observations)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Branching, "step can't be recorded"),
        (FixesRows, r"tensor\.shape\[0\]"),
        (Random, "draws at random"),
        (OddLogits, "SimpleNamespace"),
        (HiddenMemory, "initial_state"),
    ],
)
def test_a_policy_that_can_not_be_exported_is_refused_by_name_with_the_reason(project, cls, reason):
    spaces = Spaces(VECTOR, gym.Discrete(3))
    with pytest.raises(ExportError, match=reason) as caught:
        export_policy(cls(spaces), "m.pt2", to="torch", env=spaces)
    assert caught.value.problem.startswith(f"{cls.__name__} can't be exported")
    assert caught.value.fix
    assert not (project / "m.pt2").exists()


class LacksOperator(Split):
    """An operator that ONNX does not have."""

    def forward_eval(self, observations, state=None):
        return super().forward_eval(observations.cummax(1).values)


@needs_onnx
@pytest.mark.exhaustive
def test_an_operator_that_onnx_lacks_is_named(project):
    spaces = Spaces(VECTOR, gym.Discrete(3))
    with pytest.raises(
        ExportError, match=r"(?s)LacksOperator can't.*aten\.cummax.*--to torch"
    ) as caught:
        export_policy(LacksOperator(spaces), "m.onnx", env=spaces)
    assert len(caught.value.problem) < 500


@pytest.mark.parametrize("style", ["rsl_rl", "ml-agents"])
def test_a_style_refuses_what_it_has_no_names_for(style):
    policy = noisy(f"PrevActionRewardWrapper({LSTM})")
    with pytest.raises(ExportError, match=f"style '{style}' does not fit: .*prev_action"):
        record_step(source_of(policy), style)
    if style == "rsl_rl":
        with pytest.raises(ExportError, match="one observation and no action mask"):
            record_step(source_of(noisy("ActionMaskWrapper(Default)")), style)
