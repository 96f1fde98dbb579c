"""On a terminal of 80 columns nothing is broken that a reader would copy."""

from __future__ import annotations

import io
import sys

from commands import run

from puffer_policies.cli.output import print_table
from puffer_policies.runs.display import make_display

PATH = "runs/" + "a-long-name-of-an-env/" * 5 + "latest.safetensors"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """Put a terminal of 80 columns in place of stdout; pytest does so itself before each test."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # without styles
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


def test_the_list_fits_and_breaks_no_word(monkeypatch, capsys):
    terminal = open_terminal(monkeypatch)
    code, _, err = run(capsys, "list")
    assert code == 0, err
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = terminal.getvalue().split()
    assert {"EntityAttention", "NormalizeObservationWrapper", "puffer-policies"} <= set(words)
    # A name, its summary in two lines at most, and the headings.
    assert len(lines) <= 120


def test_cells_that_do_not_fit_stand_below_each_other(monkeypatch):
    terminal = open_terminal(monkeypatch)
    print_table("Things", ("what", "detail"), [("name", f"stands in {PATH}")])
    assert PATH in terminal.getvalue().split()


def test_the_result_of_a_run_keeps_its_path_in_one_piece(monkeypatch):
    terminal = open_terminal(monkeypatch)
    make_display("plain", total_steps=1).summary("CartPole-v1", {"checkpoint": PATH})
    assert f"checkpoint  {PATH}\n" in terminal.getvalue()
