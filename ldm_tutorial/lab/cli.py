"""The entry point of ``ldm``: whatever happens, it ends in an exit status and at most one sentence, never a traceback.

Status 0: done. 1: ``ldm doctor`` found a fault. 2: a wrong input, or a disk that refuses. 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys  # these two are there already: anything more would be a moment in which Ctrl-C is not yet handled

STOPPED = 130  # as shells count a process that Ctrl-C ended


class PatientStream:
    """A text stream to which writing never fails: letters that it can't show are spelled out as codes, and once it is
    closed or full, what is written is dropped. So a measurement is not lost because its table could not be printed."""

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 (None: it was closed before the start)
        if hasattr(self.stream, "reconfigure"):
            self.stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:  # Python's own flush at the end must not fail either
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def stop(number: int, frame) -> None:
    """What Ctrl-C does. While modules are imported there is nothing to tidy up, and libraries would turn the interrupt into
    errors of their own: the process ends at once."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(STOPPED)
        frame = frame.f_back
    raise KeyboardInterrupt


def expand_home(argument: str) -> str:
    """``~/a.png`` and ``--out=~/a.png`` with the home folder in place of the "~", which a shell leaves as it is in quotes
    and after "="."""
    if argument.startswith("--"):
        option, equals, value = argument.partition("=")
    else:
        option, equals, value = "", "", argument
    if value.startswith("~/"):
        value = os.path.expanduser(value)
    return option + equals + value


def run(arguments: list[str]) -> int:
    """Run a command and say in one sentence what went wrong, if anything; returns the exit status."""
    from ..errors import Interrupted, UserError
    from ..files import disk_reason
    from ..storage.threads import share_the_machine
    from .commands import app

    if arguments[:1] != ["train"]:  # a training has the machine to itself
        share_the_machine()
    try:
        return app([expand_home(a) for a in arguments] or ["--help"], prog_name="ldm", standalone_mode=False) or 0
    except Exception as error:
        reason = disk_reason(error)
        if isinstance(error, UserError):
            message = str(error)
        elif hasattr(error, "format_message"):  # what typer raises for a wrong command line
            message = error.format_message()
        elif reason is not None:
            place = getattr(error, "filename", None)
            message = f"{reason}{f' ({place!r})' if place else ''}: check the path, your rights and the free space"
        else:
            raise
        print(f"ldm: {message.rstrip('.')}.", file=sys.stderr)
        return STOPPED if isinstance(error, Interrupted) else 2


def main() -> None:
    """Entry point of the command ``ldm``."""
    try:
        import atexit
        import signal

        before = signal.getsignal(signal.SIGINT)
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = PatientStream(sys.stdout), PatientStream(sys.stderr)
        if before is signal.default_int_handler:  # a job in the background ignores Ctrl-C: let it
            signal.signal(signal.SIGINT, stop)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        try:
            status = run(sys.argv[1:])
        finally:
            sys.stdout, sys.stderr = streams
            signal.signal(signal.SIGINT, before)
    except KeyboardInterrupt:
        status = STOPPED
    sys.exit(status)


if __name__ == "__main__":
    main()
