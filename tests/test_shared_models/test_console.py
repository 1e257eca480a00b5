"""What a command line answers when things go wrong, and on which stream it speaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from shared_models.console import (
    CommandLine,
    InputError,
    RefusedError,
    Screen,
    print_json,
    report_errors,
)
from shared_models.toml import ConfigError


class OverBudgetError(Exception):
    """Stands for an exception of a layer that knows no exit codes."""


ERRORS: dict[str, tuple[BaseException, int, str]] = {
    "usage": (InputError("Expected [policy] in site.toml."), 2, "Expected [policy] in site.toml."),
    "refused": (RefusedError("No."), 3, "No."),
    "config": (ConfigError(["one", "two"]), 2, "one\ntwo"),
    "missing": (FileNotFoundError(2, "No such file", "a.csv"), 1, "a.csv"),
    "mapped": (OverBudgetError("Nothing is left."), 3, "Nothing is left."),
    "fault": (ZeroDivisionError("division by zero"), 1, "Unexpected ZeroDivisionError"),
    "stopped": (KeyboardInterrupt(), 1, "run the command again"),
    "exit": (typer.Exit(3), 3, ""),
    "click": (click.UsageError("wrong word"), 2, "wrong word"),
}

app = CommandLine(name="demo", about="Demonstrate.")


@app.command()
@report_errors(lambda: {OverBudgetError: 3})
def fail(kind: str) -> None:
    """Fail in some way."""
    raise ERRORS[kind][0]


@app.command()
@report_errors()
def tell(*, json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Tell something.

    The second paragraph has a line
    break in its source.
    """
    screen = Screen(json=json)
    screen.say("a [policy] of /a/very/long/path" + "/folder" * 30)
    screen.warn("beware")
    screen.next("go on.")
    screen.answer({"done": 1})


def run(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("kind", ERRORS)
def test_each_kind_of_error_has_its_exit_code_and_no_traceback(kind):
    _, code, message = ERRORS[kind]
    result = run("fail", kind)
    assert result.exit_code == code
    assert message in result.stderr
    assert not result.stdout
    assert "Traceback" not in result.output


def test_an_unexpected_fault_names_its_place():
    assert f"({Path(__file__).name}, line " in run("fail", "fault").stderr


def test_people_read_stdout_unless_a_machine_does():
    people = run("tell")
    assert not people.stderr
    assert "done" not in people.stdout
    machine = run("tell", "--json")
    assert json.loads(machine.stdout) == {"done": 1}
    assert machine.stderr == people.stdout


def test_brackets_and_long_paths_stay_whole():
    first, *_, last = run("tell").stdout.strip().splitlines()
    assert first.startswith("a [policy] of ")
    assert first.endswith("/folder")
    assert last == "Next: go on."


def test_help_flows_over_line_breaks_of_the_source():
    assert "line break in its" in run("tell", "--help").stdout


def test_json_takes_numpy_numbers_and_paths_and_refuses_what_json_cannot_say(capsys):
    print_json({"a": np.float32(0.5), "b": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": 0.5, "b": "x"}
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": float("nan")})
    with pytest.raises(TypeError, match="set"):
        print_json({"a": {1}})
