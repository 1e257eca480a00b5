"""How the three command lines talk: exit codes, sentences for people, one object for machines.

People read stdout, except when a machine asked for ``--json``: then stdout carries the object alone
and everything for people goes to stderr.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

DONE = 0
FAILED = 1
USAGE = 2
REFUSED = 3

Command = TypeVar("Command", bound=Callable[..., object])


class CommandLine(typer.Typer):
    """A Typer application whose help flows: line breaks inside a paragraph of a docstring go.

    Typer's own way to do so loads a Markdown parser, which takes a fifth of the time of ``--help``.
    """

    def __init__(self, *, name: str, about: str) -> None:
        super().__init__(name=name, help=about, no_args_is_help=True, rich_markup_mode="rich")

    def command(self, *args: Any, **options: Any) -> Callable[[Command], Command]:  # noqa: ANN401
        """Decorator that registers a command; see :meth:`typer.Typer.command`."""

        def register(function: Command) -> Command:
            paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
            options.setdefault("help", "\n\n".join(p.replace("\n", " ") for p in paragraphs))
            return super(CommandLine, self).command(*args, **options)(function)

        return register


class CommandError(Exception):
    """An error whose message is written for the person at the command line.

    Attributes:
        exit_code: What the process answers; subclasses and callers choose.
    """

    exit_code = FAILED

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class InputError(CommandError):
    """Wrong usage or input: the person can correct it."""

    exit_code = USAGE


class RefusedError(CommandError):
    """A policy forbids what was asked."""

    exit_code = REFUSED


class Screen:
    """What a command shows: sentences and tables for people, or one object for machines.

    Args:
        json: Whether a machine reads stdout.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """The rich console that people read: stderr while a machine reads stdout."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=self.json, highlight=False)
        return self._console

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """Print a sentence as it is: square brackets and long paths stay whole."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print something that works but deserves attention."""
        self.say(f"Note: {text}", style="yellow")

    def show(self, table: RenderableType) -> None:
        """Print a rich table, tree or panel."""
        self.console.print(table)

    def next(self, *steps: str) -> None:
        """Print what to do next; the last lines of a command."""
        self.say()
        for step in steps:
            self.say(f"Next: {step}", style="bold")

    def answer(self, answer: Mapping[str, object]) -> None:
        """Print the object for machines as one line, if a machine asked."""
        if self.json:
            print_json(answer)

    def progress(self, *extra_fields: str) -> Progress:
        """A progress bar with time left, on the stream that people read.

        Args:
            extra_fields: Names of task fields shown behind the bar, such as ``verdicts``.
        """
        from rich import progress

        fields = [progress.TextColumn(f"{{task.fields[{name}]}}") for name in extra_fields]
        return progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=10),
            progress.MofNCompleteColumn(),
            *fields,
            progress.TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )


def print_json(answer: Mapping[str, object]) -> None:
    """Print one object as one line on stdout.

    Raises:
        ValueError: If a number is not finite: JSON has no spelling for it.
    """
    line = json.dumps(answer, allow_nan=False, ensure_ascii=False, default=_plain)
    typer.echo(line)


def _plain(value: object) -> object:
    """A NumPy scalar or path as JSON knows it."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    msg = f"Expected a value that JSON can hold, got {type(value).__name__}"
    raise TypeError(msg)


@contextmanager
def report_errors(
    exit_codes: Callable[[], Mapping[type[Exception], int]] | None = None,
) -> Iterator[None]:
    """Context or decorator of a command: exceptions become a sentence on stderr and an exit code.

    As a decorator it stands below ``@app.command()``. An exception answers with the code that
    ``exit_codes`` gives its class, or with its ``exit_code`` attribute, or 2 for a faulty
    configuration, else 1.

    Args:
        exit_codes: Called only when something went wrong, so that the classes need no early import.

    Raises:
        typer.Exit: With the exit code.
    """
    try:
        yield
    except KeyboardInterrupt:
        _complain("Stopped. What was finished is kept; run the command again to go on.")
        raise typer.Exit(FAILED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _is_click_usage(error):
            raise
        table = exit_codes() if exit_codes else {}
        code = _exit_code(error, table)
        _complain(str(error) if code is not None else _unexpected(error))
        raise typer.Exit(FAILED if code is None else code) from None


def _exit_code(error: Exception, table: Mapping[type[Exception], int]) -> int | None:
    """The code for an exception whose message is meant for people; None for an unexpected one."""
    for cls, code in table.items():
        if isinstance(error, cls):
            return code
    known = getattr(error, "exit_code", None)
    if isinstance(known, int):
        return known
    if isinstance(error, _config_error()):
        return USAGE
    return FAILED if isinstance(error, OSError) else None


def _config_error() -> type[Exception]:
    """Imported late: pydantic would double the time that ``--help`` takes."""
    from shared_models.toml import ConfigError

    return ConfigError


def _is_click_usage(error: Exception) -> bool:
    import click

    return isinstance(error, click.ClickException | click.exceptions.Exit)


def _unexpected(error: Exception) -> str:
    """One line on a fault of ours: enough to report it, without a wall of code."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "unknown"
    return (
        f"Unexpected {type(error).__name__}: {error} ({where}). "
        "This is a fault of the program; please report this line to the project."
    )


def _complain(message: str) -> None:
    typer.secho(message, err=True, fg=typer.colors.RED if sys.stderr.isatty() else None)
