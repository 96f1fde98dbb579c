"""Whatever a policy does, a run of the suite ends with a result for every check."""

from __future__ import annotations

import multiprocessing
import os
import random
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from good import DISCRETE
from process_states import is_running

from puffer_policies.checks import check_policy
from puffer_policies.checks.engine import isolation
from puffer_policies.checks.model import Level, Report, Status

BASE = """
import os, random, signal, subprocess, sys, time, traceback
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, env, hidden_size=8):
        super().__init__()
        self.hidden_size, self.is_continuous = hidden_size, False
        self.encoder = nn.Linear(4, hidden_size)
        self.actor = nn.Linear(hidden_size, 4)
        self.critic = nn.Linear(hidden_size, 1)
        {init}

    def encode_observations(self, observations, state=None):
        {encode}
        return torch.tanh(self.encoder(observations.float()))

    def decode_actions(self, hidden):
        return self.actor(hidden), self.critic(hidden)

    def forward_eval(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations, state=None):
        return self.forward_eval(observations.reshape(-1, 4), state)
"""

CHECKS = ("B2", "S1", "S3", "S5", "S8", "A1")


@pytest.fixture
def report(tmp_path):
    """Check a policy that runs some lines when it is built, or when it encodes."""

    def run(*, init: str = "pass", encode: str = "pass", limit: float = 20.0) -> Report:
        path = tmp_path / "hostile_policy.py"
        path.write_text(BASE.format(init=init, encode=encode))
        return check_policy(f"{path}::Net", DISCRETE, select=CHECKS, time_limit=limit)

    return run


def texts(report: Report) -> str:
    return "\n".join(result.message for result in report.results)


def assert_all_reported(report: Report) -> None:
    assert [result.code for result in report.results] == list(report.checks)
    assert len(report.results) == len(CHECKS)


def test_a_good_policy_passes(report):
    good = report()
    assert_all_reported(good)
    assert good.ok, good.bad


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("raise KeyboardInterrupt", "failed: KeyboardInterrupt"),
        ("self.big = torch.zeros(100 * 2**30)", "RuntimeError"),
        ("self.big = np.zeros(100 * 2**30)", "MemoryError"),
    ],
)
def test_a_policy_that_can_not_be_built_gives_one_error(report, init, message):
    bad = report(init=init)
    assert_all_reported(bad)
    assert not bad.ok
    assert message in texts(bad)
    assert "hostile_policy.py:15" in texts(bad)
    assert all(result.status is not Status.PASSED for result in bad.results if result.code != "B2")


def test_a_policy_that_ends_the_process_when_it_is_built_gives_one_error(report):
    bad = report(init="os._exit(4)")
    assert_all_reported(bad)
    assert texts(bad).count("it can't be built: the process ended itself with exit code 4") == 6
    assert [result.status for result in bad.results] == [Status.ERROR] + [Status.SKIPPED] * 5


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("os._exit(4)", "ended itself with exit code 4"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died of SIGKILL"),
        ("torch.zeros(100 * 2**30)", "RuntimeError"),
    ],
)
def test_a_policy_that_can_not_be_run_gives_one_error_with_its_place(report, encode, message):
    bad = report(encode=encode)
    assert_all_reported(bad)
    assert [result.status for result in bad.results] == [
        Status.PASSED,
        Status.ERROR,
        *[Status.SKIPPED] * 4,
    ]
    assert message in texts(bad)
    assert bad.results[2].message == "not run because of B9 runs"
    (finding,) = bad.findings
    assert finding.first.fix
    assert finding.level is Level.ERROR
    assert len({result.cause for result in bad.results[1:]}) == 1
    known = "SIGKILL" not in message and "exit" not in message
    assert ("hostile_policy.py:18 in encode_observations" in finding.first.where) is known


ENDLESS = "[None for _ in iter(int, 1)]"
DEAF = "[signal.signal(s, signal.SIG_IGN) for s in (2, 10, 15)]; "


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"init": ENDLESS}, "took longer than 0.3 s of CPU time at "),
        ({"encode": ENDLESS}, "took longer than 0.3 s of CPU time at "),
        ({"encode": "time.sleep(99)"}, "took longer than 1.2 s, in which it slept or waited at "),
        ({"encode": DEAF + ENDLESS}, "took longer than 0.3 s of CPU time"),
    ],
    ids=["build", "pass", "sleep", "deaf"],
)
def test_a_policy_that_never_ends_runs_out_of_time_once(report, lines, message):
    bad = report(**lines, limit=0.3)
    assert_all_reported(bad)
    assert message in texts(bad)
    assert ("hostile_policy.py:" in bad.bad[0].where) is message.endswith(" at ")
    assert [result.status for result in bad.results].count(Status.ERROR) == 1
    assert [result.status for result in bad.results].count(Status.SKIPPED) >= 4


def test_what_others_do_with_the_processor_takes_no_time_of_a_check():
    clock = isolation._Clock(os.getpid(), 0.1)
    others = isolation._Clock(1 if os.getpid() != 1 else 2, 0.1)
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    assert clock.excess == "took longer than 0.1 s of CPU time"
    assert "CPU" not in others.excess


def test_after_some_hangs_the_rest_is_not_run(report):
    callers = "{frame.f_code.co_name for frame, _ in traceback.walk_stack(None)}"
    bad = report(encode=f"'runs' in {callers} or {ENDLESS}", limit=0.15)
    assert_all_reported(bad)
    assert [result.status for result in bad.results].count(Status.ERROR) == isolation.MAX_HANGS
    assert "not run: 3 checks before it ran out of time" in texts(bad)


def test_one_check_that_dies_leaves_the_others_alone(report):
    dying = "os._exit(0) if len(observations) == 7 else None"  # S3 tries a batch of 7
    report_of_death = report(encode=dying)
    status = {result.code: result.status for result in report_of_death.results}
    assert status["S3"] is Status.ERROR
    assert {status[code] for code in CHECKS if code != "S3"} == {Status.PASSED}


def test_what_it_prints_and_writes_is_gone(report, tmp_path, monkeypatch, capfd):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cwd"))
    report(
        init="print('hello'); os.write(2, b'hello')",
        encode="print('hello'); open('rubbish.txt', 'w').close()",
    )
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert list(Path.cwd().iterdir()) == []


def test_the_generators_of_the_caller_stay_as_they_were(report):
    states = (torch.get_rng_state(), str(np.random.get_state()), random.getstate())
    report(init="torch.manual_seed(1); np.random.seed(1); random.seed(1)")
    assert torch.equal(states[0], torch.get_rng_state())
    assert (str(np.random.get_state()), random.getstate()) == states[1:]


def test_no_process_is_left(report, tmp_path):
    pid = tmp_path / "pid"
    child = f"open({str(pid)!r}, 'w').write(str(subprocess.Popen(['sleep', '99']).pid))"
    report(encode=f"{child}; {ENDLESS}", limit=0.3)
    assert multiprocessing.active_children() == []
    assert not is_running(pid.read_text())


# Both leave the group of the worker.
DAEMONS = {
    "program": "subprocess.Popen(['sleep', '99'], start_new_session=True, stdout=-3).pid",
    "fork": "os.fork() or os.setsid() or time.sleep(99)",
}


@pytest.mark.skipif(not os.path.exists("/proc"), reason="daemons are looked for in /proc")
@pytest.mark.parametrize("daemon", DAEMONS.values(), ids=list(DAEMONS))
@pytest.mark.parametrize("end", ["pass", "os._exit(4)"])
def test_no_daemon_is_left(report, tmp_path, daemon, end):
    pid = tmp_path / "pid"
    report(init=f"open({str(pid)!r}, 'w').write(str({daemon})); {end}", limit=5)
    # It is not a child of this process, which can't wait for it.
    deadline = time.monotonic() + 20
    while is_running(pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_policy_that_prints_without_end_runs_out_of_time(report, stream):
    endless = f"[sys.{stream}.write('words ' * 10_000) and None for _ in iter(int, 1)]"
    bad = report(init=endless, limit=0.1)
    assert_all_reported(bad)
    assert "the process took longer than 0." in texts(bad)


def test_of_an_endless_output_the_start_and_the_end_are_kept():
    output = isolation._Output()
    for number in range(10_000):
        output.add(f"line {number:05}\n".encode() * 10)
    assert output.text().startswith("line 00000")
    assert output.text().endswith("line 09999\n")
    assert len(output.text()) == 2 * isolation._OUTPUT_KEPT


TO_SOCKETS = """for fd in range(3, 256):
            try:
                import stat
                stat.S_ISSOCK(os.fstat(fd).st_mode) and os.write(fd, {data!r})
            except OSError:
                pass
"""


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff garbage\n",
        b'{"stage": "end"}\n',
        b'{"token": "", "result": {"code": "B2", "status": "passed", "seconds": 0}}\n',
        b"[" * 5000 + b"\n",
        b"9" * 5000 + b"\n",
        b"cbuiltins\nexec\n(S'import os'\ntR.",
    ],
)
def test_what_a_policy_writes_to_the_socket_is_told_and_never_a_result(report, data):
    bad = report(init=TO_SOCKETS.format(data=data))
    assert_all_reported(bad)
    assert "wrote to the checker's own socket" in texts(bad)
    assert all(result.status is not Status.PASSED for result in bad.results)


def test_half_a_message_does_not_keep_the_checker_waiting(report):
    half = TO_SOCKETS.format(data=b"half") + f"        {ENDLESS}"
    bad = report(init=half, limit=0.2)
    assert_all_reported(bad)
    assert "took longer than 0.2 s of CPU time" in texts(bad)


def test_an_end_before_the_last_check_is_told(report):
    # A policy that goes to such lengths shares the process, and could send any message.
    bad = report(
        init="i = sys.modules['puffer_policies.checks.engine.isolation']\n"
        "        send = i._send\n"
        "        def forge(messages, job, data):\n"
        "            send(messages, job, {'stage': i.Stage.END})\n"
        "        i._send = forge"
    )
    assert_all_reported(bad)
    assert "out of turn" in texts(bad)


def test_the_module_is_not_imported_here(report, tmp_path):
    marker = tmp_path / "imported_by"
    path = tmp_path / "shy.py"
    path.write_text(
        f"import os\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\n"
        + BASE.format(init="pass", encode="pass")
    )
    check_policy(f"{path}::Net", DISCRETE, select="B2")
    assert int(marker.read_text()) != os.getpid()


def test_a_file_that_can_not_be_imported_gives_one_error(tmp_path):
    path = tmp_path / "broken_file.py"
    path.write_text("import nothing_of_this_name\n")
    report = check_policy(f"{path}::Net", DISCRETE, select="B2,S1")
    assert [r.status for r in report.results] == [Status.ERROR, Status.SKIPPED]
    assert "nothing_of_this_name" in texts(report)


def test_a_class_of_this_process_can_be_checked(report):
    space = textwrap.dedent(BASE.format(init="pass", encode="pass"))
    names: dict[str, object] = {"__name__": "somewhere"}
    exec(space, names)
    assert check_policy(names["Net"], DISCRETE, select=CHECKS).ok  # type: ignore[arg-type]


def test_a_spawned_worker_does_the_same(monkeypatch):
    monkeypatch.setattr("puffer_policies.checks.engine.isolation._start_method", lambda: "spawn")
    assert check_policy("LSTMWrapper(Default)", DISCRETE, select=CHECKS).ok
