"""The command line: the commands put together, and one answer to every error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from changeover.console.commands import act, decide, look, request, run, set_up

SEE = (
    "Exit status: 0 done, 1 the answer is no, 2 refused, 3 a person must act, 4 try again later, "
    "5 look again."
)


class Commands(TyperGroup):
    """Turns every error of ours into one message and a status, as JSON where that was asked."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - typer's signature
        **extra: Any,
    ) -> Any:
        """Run a command; see the class."""
        words = list(sys.argv[1:] if args is None else args)

        def run() -> Any:
            _require_text(words)
            answered = super(Commands, self).main(
                words,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
            if sys.stdout is not None:
                sys.stdout.flush()  # here a full disk can still be told
            return answered

        status = _guarded(run, as_json="--json" in words)
        if standalone_mode:
            sys.exit(status)
        return status


def _require_text(words: Sequence[str]) -> None:
    """Bytes that are no UTF-8 would fail later, wherever they are stored, looked up or printed."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as exc:
            from changeover.models.errors import Invalid

            raise Invalid(f"{word!r} is not UTF-8: type it anew, or check the locale") from exc


def _guarded(run: Callable[[], Any], *, as_json: bool) -> int:
    from changeover.models.errors import ChangeoverError

    stdout = sys.stdout
    try:
        answered = run()
    except ChangeoverError as exc:
        from changeover.console.failures import report

        return report(exc, as_json=as_json)
    except typer.Abort:
        from changeover.console.failures import INTERRUPTED, say

        say("interrupted", kind="Interrupted", status=INTERRUPTED, as_json=as_json)
        return INTERRUPTED
    except typer.TyperException as exc:  # wrong usage
        return _wrong_usage(exc, as_json=as_json)
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return _nobody_reads()  # Typer has found out, and put something else in the place of both
    except Exception as exc:
        from changeover.console.failures import foreign, say

        foreseen = foreign(exc)
        if foreseen is None:
            raise
        if isinstance(exc, OSError):
            sys.stdout = None  # what it still holds cannot be written either
        message, status = foreseen
        say(message, kind=type(exc).__name__, status=status, as_json=as_json)
        return status
    return answered if isinstance(answered, int) else 0


def _nobody_reads() -> int:
    """Whoever read our output (head, less) has gone: nothing is left to say, to anybody."""
    sys.stdout = None
    return 0


def _wrong_usage(error: typer.TyperException, *, as_json: bool) -> int:
    if as_json:
        from changeover.console.failures import say

        say(error.format_message(), kind="Usage", status=error.exit_code, as_json=True)
    else:
        show: Callable[[], None] = getattr(error, "show", lambda: None)
        show()
    return error.exit_code


app = typer.Typer(
    cls=Commands,
    name="changeover",
    help="Rescue failed boots: fence, program and publish idle accelerators.",
    epilog=SEE,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to import than everything else together
    pretty_exceptions_enable=False,
)
for part in (look, decide, act, request, set_up, run):
    app.add_typer(part.commands)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        from importlib.metadata import version

        print(f"changeover {version('changeover')}")
        raise typer.Exit


@app.callback()
def _everything(
    *,
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The ``changeover`` command."""
    app()


if __name__ == "__main__":
    main()
