"""P1-P9 catch what they name, in every style, and find no fault with correct policies."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from good import CONTINUOUS, DICT, DISCRETE, SEVERAL, GoodLSTM, GoodMLP
from good_memories import Attention, GRUMemory
from good_policies import DropoutPolicy
from mutant import assert_passes, outcomes, subject_of
from process_states import is_running
from torch import nn

from puffer_policies.assembly.factory import get_policy
from puffer_policies.checks.model import CheckFailed, Scope, Status
from puffer_policies.checks.probes import fresh_process
from puffer_policies.checks.probes.copies import Master
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.checks.promises import recurrence
from puffer_policies.checks.promises.export import compile_parity
from puffer_policies.checks.promises.persistence import (
    CHECKS,
    absent_plugin_is_named,
    survives_a_fresh_process,
)
from puffer_policies.spaces import Spaces

SLOW = tuple(check for check in CHECKS if check.code in {"P2", "P7", "P9"})
QUICK = tuple(check for check in CHECKS if check not in SLOW)
FROM_SOURCE = """\
from good import GoodLSTM
policy = GoodLSTM(here)
"""


@pytest.mark.parametrize(
    ("cls", "spaces"),
    [
        (GoodMLP, CONTINUOUS),
        (GoodLSTM, DICT),
        pytest.param(GRUMemory, SEVERAL, marks=pytest.mark.exhaustive),
        pytest.param(GoodLSTM, DISCRETE, marks=pytest.mark.exhaustive),
        pytest.param(Attention, DISCRETE, marks=pytest.mark.exhaustive),
    ],
)
def test_correct_policies_pass_what_takes_seconds(cls: type[nn.Module], spaces: Spaces) -> None:
    results = outcomes(SLOW, subject_of(cls, spaces))
    assert {status for status, _ in results.values()} == {Status.PASSED}, results


def test_what_a_script_does_to_its_process_is_unknown_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_process, "_forked", None)  # as in a program that checks a policy
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch\n"
        "print(hasattr(torch, 'mark'), os.getcwd(), os.environ['WHO'], __name__, file=sys.stderr)\n"
        "torch.mark = True\n"
        "sys.exit(3)\n"
    )
    for who in ("one", "two"):
        monkeypatch.setenv("WHO", who)
        status, errors = fresh_process._run(script)
        assert status == 3
        assert errors.split() == ["False", str(Path.cwd()), who, "__main__"]


def test_a_script_that_hangs_is_ended_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_process, "_forked", None)
    fresh_process.serve_forks()
    script, pid = tmp_path / "script.py", tmp_path / "pid"
    script.write_text("")
    assert fresh_process._run(script) == (0, "")
    script.write_text(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    )
    monkeypatch.setattr(fresh_process, "TIME_LIMIT", 0.5)
    with pytest.raises(TimeoutError):
        fresh_process._run(script)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and is_running(pid.read_text()):
        time.sleep(0.01)  # a signal takes its time on a machine at work
    assert not is_running(pid.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="only there it forks")
def test_a_fork_of_this_process_serves_it_after_workers_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_process, "_forked", None)
    fresh_process.serve_forks()
    server = fresh_process._forked
    assert server is not None
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.exit(1)\n")
    assert fresh_process._run(script) == (1, "")
    abandoned = {"id": "of a worker that died", "script": str(script), "environ": dict(os.environ)}
    job = {**abandoned, "errors": os.devnull, "folder": str(tmp_path), "path": list(sys.path)}
    os.write(server.jobs, json.dumps(job).encode() + b"\n")
    script.write_text("print('to nobody')\n")
    assert fresh_process._run(script) == (0, "")
    assert fresh_process._forked is server
    fresh_process._give_up(server, os.getpid())
    assert not is_running(str(server.pid))


def test_what_takes_seconds_runs_once() -> None:
    assert {check.scope for check in SLOW} == {Scope.POLICY}


def by_name(expression: str, spaces: Spaces) -> Subject:
    return subject_of(lambda given: get_policy(expression, given), spaces, name=expression)


@pytest.mark.parametrize("spaces", [DISCRETE, DICT], ids=str)
def test_a_registered_policy_is_rebuilt_in_a_new_process_by_its_recipe(spaces: Spaces) -> None:
    subject = by_name("LSTMWrapper(Default(hidden_size=16))", spaces)
    assert survives_a_fresh_process.run(subject) is None


def test_a_registered_policy_keeps_every_promise() -> None:
    subject = by_name("LSTMWrapper(Default(hidden_size=16))", CONTINUOUS)
    results = outcomes((*recurrence.CHECKS, *QUICK), subject)
    assert results.pop("R13")[0] is Status.SKIPPED  # it does not read what came before
    assert {status for status, _ in results.values()} == {Status.PASSED}, results


def test_a_class_is_rebuilt_in_a_new_process_from_its_source() -> None:
    subject = subject_of(GoodLSTM)
    subject.source = FROM_SOURCE
    assert survives_a_fresh_process.run(subject) is None


def test_source_that_builds_other_weights_is_caught_in_the_new_process() -> None:
    subject = subject_of(GoodLSTM)
    subject.source = FROM_SOURCE + "policy.critic = torch.nn.Identity()"
    with pytest.raises(CheckFailed, match="new process"):
        survives_a_fresh_process.run(subject)


@pytest.mark.parametrize("source", ["", "policy = ...", "from nowhere_at_all import policy"])
def test_what_only_this_process_can_build_is_reloaded_here_and_says_so(source: str) -> None:
    subject = subject_of(GoodMLP)
    subject.source = source
    note = survives_a_fresh_process.run(subject)
    assert note is not None
    assert note.startswith("reloaded in this process only")


def test_a_recipe_names_its_package_and_one_of_another_registry_is_left_alone() -> None:
    absent_plugin_is_named.run(by_name("Default", DISCRETE))
    results = outcomes(CHECKS[2:3], subject_of(GoodMLP))
    assert results["P3"][0] is Status.SKIPPED


def test_dropout_passes_where_it_is_declared_only() -> None:
    assert outcomes(CHECKS[:1], subject_of(DropoutPolicy))["P1"][0] is Status.FAILED
    declared = {"train_differs": "it drops out while training"}
    assert_passes(CHECKS[:1], subject_of(DropoutPolicy, declared=declared))


class MovesInEval(GoodMLP):
    """Statistics that go on moving while a policy is evaluated."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("seen", torch.zeros(()))

    def features(self, observations: Any) -> torch.Tensor:
        self.seen += 1
        return super().features(observations)


def test_statistics_that_move_in_eval_mode_are_caught() -> None:
    status, text = outcomes(CHECKS[:1], subject_of(MovesInEval))["P1"]
    assert status is Status.FAILED
    assert "seen" in text


class ReadsBack(GoodMLP):
    """A branch on a value: legitimate, but a break in the graph."""

    def value(self, hidden: torch.Tensor) -> torch.Tensor:
        if bool(hidden.sum() > 1e9):
            return super().value(hidden) * 0.0
        return super().value(hidden)


def test_graph_breaks_are_counted_and_are_no_failure() -> None:
    assert compile_parity.run(subject_of(GoodMLP)) == "0 graph breaks"
    note = compile_parity.run(subject_of(ReadsBack))
    assert note is not None
    assert not note.startswith("0 ")


def test_what_export_refuses_is_skipped_with_its_reason() -> None:
    results = outcomes([each for each in SLOW if each.code == "P7"], subject_of(ReadsBack))
    status, reason = results["P7"]
    assert status is Status.SKIPPED
    assert "torch.export refuses it" in reason


def test_tied_weights_pass_where_they_are_declared() -> None:
    class Tied(GoodMLP):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.mirror = nn.Module()
            self.mirror.weight = self.encoder.weight

    assert outcomes(CHECKS[4:5], subject_of(Tied))["P5"][0] is Status.FAILED
    assert_passes(CHECKS[4:5], subject_of(Tied, declared={"tied": ["mirror.weight"]}))


def test_checks_leave_no_threads_files_or_generators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads, generator = threading.active_count(), torch.get_rng_state()
    outcomes(QUICK, subject_of(GoodLSTM))
    assert torch.equal(torch.get_rng_state(), generator)
    assert threading.active_count() == threads
    assert not list(tmp_path.iterdir())


def test_a_copy_is_a_deep_one_in_all_its_hooks() -> None:
    policy = GoodMLP(DISCRETE)
    calls: list[str] = []
    policy.encoder.register_forward_hook(lambda *_: calls.append("both"))
    twin = Master(policy, lambda: GoodMLP(DISCRETE)).copy()
    twin.encoder.register_forward_hook(lambda *_: calls.append("copy"))
    twin.critic.register_forward_hook(lambda *_: calls.append("critic"))
    for each, expected in ((policy, ["both"]), (twin, ["both", "copy", "critic"])):
        calls.clear()
        each.forward_eval(torch.zeros(2, 4), {})
        assert calls == expected
    assert not {id(p) for p in policy.parameters()} & {id(p) for p in twin.parameters()}
    assert all(
        torch.equal(a, b) for a, b in zip(policy.parameters(), twin.parameters(), strict=True)
    )


class Selfish(GoodMLP):
    """Holds a bound method, one under another's name, a closure, itself in a list, and two views.

    Pickle would find neither function again, and the method's name leads to another one.
    """

    def __init__(self, spaces: Spaces) -> None:
        super().__init__(spaces)
        self.run, self.twins = self.forward_eval, [self]
        self.twice = types.MethodType(lambda self: 2 * self.hidden_size, self)
        self.twice.__func__.__name__ = "hidden_size"
        self.views = [table := torch.zeros(2, 2), table[0]]


class Copied(nn.Linear):
    """Says how it is copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Copied:
        twin = Copied(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        twin.is_own = True
        return twin


def test_a_copy_refers_to_itself_and_its_own_tensors() -> None:
    policy = Selfish(DISCRETE)
    twin: Any = Master(policy, lambda: policy).copy()
    assert twin is not policy
    assert twin.twins[0] is twin
    assert twin.run.__self__ is twin.twice.__self__ is twin
    assert twin.twice() == 2 * twin.hidden_size
    twin.views[0].fill_(1)
    assert bool(twin.views[1].all())
    assert not policy.views[0].any()


def test_a_module_that_says_how_it_is_copied_is_copied_so() -> None:
    policy = GoodMLP(DISCRETE)
    policy.encoder = Copied(4, policy.hidden_size)
    twin: Any = Master(policy, lambda: policy).copy()
    assert twin.encoder.is_own
    assert torch.equal(twin.encoder.weight, policy.encoder.weight)
