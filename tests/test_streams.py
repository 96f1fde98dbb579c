"""What we print is ours: foreign output goes to stderr, and no text commands the terminal."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from commands import run

from puffer_policies import streams
from puffer_policies.runs.display import Live, make_display

NOISY = """
import os, subprocess, sys
print("hello from a plug-in")
sys.stdout.buffer.write(b"bytes\\n")
os.write(1, b"from C\\n")
subprocess.run([sys.executable, "-c", "print('from a child')"])
"""


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\bc\x07", r"a\rb\x08c\x07"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("two\n\tlines, caf\xe9\xa0!", "two\n\tlines, caf\xe9\xa0!"),
    ],
)
def test_control_characters_become_visible(text, visible):
    assert streams.printable(text) == visible


def test_a_summary_from_a_strangers_file_commands_no_terminal(project, capsys):
    project.joinpath("nets.py").write_text("")
    project.joinpath("registry.toml").write_text(
        'schema = 1\n[policies.Tiny]\ntarget = "nets:Tiny"\n'
        r'summary = "nice\u001b]0;owned\u0007"'
    )
    code, out, err = run(capsys, "list", "Tiny")
    assert code == 0, err
    assert r"nice\x1b]0;owned\x07" in out


def test_data_stays_data_whatever_a_policy_module_prints(tmp_path, forks):
    tmp_path.joinpath("nets.py").write_text(
        f"{NOISY}\nfrom puffer_policies.models import Default\n"
    )
    tmp_path.joinpath("registry.toml").write_text(
        'schema = 1\n[policies.Loud]\ntarget = "nets:Default"\n'
    )
    program = tmp_path / "program.py"
    program.write_text("import sys; from puffer_policies.cli.main import main; sys.exit(main())")
    done = forks.run(program, "doctor", "--json", cwd=tmp_path, env=dict(os.environ))
    assert {each["subject"] for each in json.loads(done.stdout)} >= {"project/Loud"}
    for line in ("hello from a plug-in", "bytes", "from C", "from a child"):
        assert line in done.stderr


def test_prints_in_this_process_are_diverted_and_come_back(capsys):
    with streams.foreign_output_on_stderr():
        print("foreign")
        streams.write("ours")
    print("afterwards")
    captured = capsys.readouterr()
    assert captured.out == "ours\nafterwards\n"
    assert captured.err == "foreign\n"


def test_a_stream_around_stdout_takes_no_output_of_ours(capsys):
    class Around:
        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

    with streams.foreign_output_on_stderr():
        sys.stdout = Around(sys.stdout)
        streams.write("ours")
        sys.stdout = None
        streams.write("ours")
        with streams.foreign_output_on_stderr():
            pass
        streams.write("ours")
    assert capsys.readouterr().out == "ours\n" * 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "| head -1"])
def test_an_output_that_takes_nothing_ends_in_words_at_most(redirection):
    command = f"{sys.executable} -m puffer_policies list --json {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert ("No space left" in done.stderr) == (redirection == ">/dev/full")


def test_an_object_in_place_of_stdout_needs_no_isatty(monkeypatch, capsys):
    class Sink:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    sink = Sink()
    monkeypatch.setattr(sys, "stdout", sink)
    code, _, err = run(capsys, "list", "Default")
    assert code == 0, err
    assert "Default" in sink.text


def test_colors_that_are_forced_animate_nothing_in_a_pipe(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    display = make_display("auto", total_steps=1)
    assert not isinstance(display, Live)


def test_warnings_are_lines_of_their_own(project, capsys):
    project.joinpath("nets.py").write_text(
        "import warnings\n"
        "from puffer_policies.models import Default\n"
        'warnings.warn("\\x1b[33mWARN: old\\x1b[0m", stacklevel=1)\n'
    )
    project.joinpath("registry.toml").write_text(
        'schema = 1\n[policies.Old]\ntarget = "nets:Default"\n'
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, _, err = run(capsys, "doctor")
    assert "warning: WARN: old" in err.splitlines()
    assert "nets.py" not in err


def test_json_has_null_for_numbers_that_are_not_finite_and_text_for_paths():
    data = {"a": [math.inf, 1.5, (math.nan,)], "b": {"c": -math.inf}, "d": Path("x")}
    plain = json.loads(streams.json_text(data), parse_constant=pytest.fail)
    assert plain == {"a": [None, 1.5, [None]], "b": {"c": None}, "d": "x"}


def test_a_broken_pipe_that_is_not_our_output_is_an_error(project, capsys, monkeypatch):
    def broken(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("puffer_policies.cli.list.run", broken)
    code, _, err = run(capsys, "list")
    assert code == 2
    assert "Broken pipe" in err


@pytest.mark.parametrize(("target", "code"), [("/dev/full", 2), ("closed pipe", 0)])
def test_output_that_can_not_be_written_is_named_unless_its_reader_left(target, code, tmp_path):
    if target == "closed pipe":
        reader, stdout = os.pipe()
        os.close(reader)
    else:
        stdout = os.open(target, os.O_WRONLY)
    command = [sys.executable, "-m", "puffer_policies", "list"]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
    )
    os.close(stdout)
    assert done.returncode == code
    assert ("error: Standard output can't be written: No space left" in done.stderr) == bool(code)
    assert "Traceback" not in done.stderr
