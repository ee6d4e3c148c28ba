"""The command ``runbook``: a thin face over the notebooks, their records and the targets."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ops.errors import INTERRUPTED, ParameterError, RunbookError
from ops.private_files import UMASK

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CHANGES = 2
"""Of `runbook plan` and `runbook diff`: there are changes. A call of these that makes no sense exits with 1."""
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, those of the process when not given; return its exit code.

    0 is success, 1 a failed run, 2 a wrong call, 130 an interrupted run. Of `plan` and `diff` 2 says that there are
    changes, and a wrong call is 1.
    """
    from ops.cli.parser import make_parser

    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if given[:1] == ["open"] and "--" in given else len(given)
    options, unknown = make_parser().parse_known_args(given[:end])
    options.passed_on = given[end + 1 :]
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    os.umask(UMASK)  # what this process and its kernels write is the operator's alone
    try:
        return int(options.call(options))
    except ParameterError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return int(options.parser.usage_code)
    except RunbookError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return EXIT_FAILED
    except PermissionError as error:
        print(
            f"runbook: {error.filename} cannot be used by this user.\n"
            "What to do: run as the user who owns it, or name another folder in PYPI_RUNBOOK_HOME.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"runbook: {INTERRUPTED}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, say) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
