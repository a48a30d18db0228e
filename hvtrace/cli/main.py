"""The command line's entry: one table of commands, of which only the one asked for is imported."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

import typer

from hvtrace import __version__
from hvtrace.errors import HvtraceError

__all__ = ["COMMANDS", "main"]

#: Name, module in hvtrace.cli, and what it answers. The function has the module's name.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("ingest", "ingest", "Read a recording into a store of Arrow tables."),
    ("info", "info", "Show what a store holds: events, losses, VMs, vCPUs."),
    ("replay", "replay", "Re-execute through the reference model; report divergences."),
    ("exits", "exits", "Count exits, and say what handling them took."),
    ("latency", "latency", "Say how long a guest waits: timers, interrupts, calls."),
    ("halt-poll", "halt_poll", "Say what halt polling costs and saves; what if …"),
    ("vmbus", "vmbus", "Show the conversation over VMBus: messages, channels."),
    ("advise", "advise", "Say what should be changed: flags, clocks, storms."),
    ("diff", "diff", "Compare two recordings: what changed, beyond chance."),
    ("query", "query", "Ask in SQL, over the tables."),
    ("export", "export", "Draw a Perfetto timeline."),
    ("view", "view", "Open that timeline in the Perfetto UI."),
    ("rules", "rules", "Show the rule book, or one rule's page."),
    ("abi", "abi", "Look up an MSR, hypercall, CPUID leaf or status."),
)

HELP = """Reads recordings of KVM's tracepoints, replays them through a reference model of the Hyper-V enlightenments,
and says whether the hypervisor kept its word and where the time went.

Exit codes: 0 clean, 1 findings, 2 unusable input or arguments, or a check that could judge nothing.
"""

EPILOG = "Start with: hvtrace ingest trace.dat && hvtrace replay trace.hvt --check"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hvtrace {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def _absent() -> None:
    """Stands for a command that was not asked for, in the list of --help."""


def build(asked: str | None) -> typer.Typer:
    """Return the application; of its commands only `asked` is the real one."""
    app = typer.Typer(
        name="hvtrace",
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, module, summary in COMMANDS:
        if name != asked:
            app.command(name, help=summary)(_absent)
            continue
        command = getattr(import_module(f"hvtrace.cli.{module}"), module)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=summary)
        else:
            app.command(name)(command)
    return app


def _terminated(number: int, _frame: FrameType | None) -> None:
    # Leaves through the cleanup of whatever is being written.
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors meant for people are printed here, in one line, with exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in words if not word.startswith("-")), None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What is ignored (nohup) stays ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminated)
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe that cannot show a character gets its number.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        build(asked)(words, prog_name="hvtrace")
    except HvtraceError as error:
        print(f"hvtrace: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("hvtrace: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away; Python must not complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"hvtrace: {printable(where)}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def printable(text: str) -> str:
    """Return `text` with control characters made visible: strings of a recording must not reach a terminal raw."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


if __name__ == "__main__":
    main()
