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
"""Of `runbook plan` and `runbook diff`: there are changes. Their usage errors exit with 1."""
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, by default those of the process, and return its exit code.

    0 is success, 1 a failed run, 2 a usage error, 130 an interrupted run. For `plan` and `diff`, 2 means changes,
    and a usage error is 1.
    """
    from ops.cli.parser import make_parser

    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if given[:1] == ["open"] and "--" in given else len(given)
    options, unknown = make_parser().parse_known_args(given[:end])
    options.passed_on = given[end + 1 :]
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    os.umask(UMASK)  # files of this process and its kernels are private
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
            "What to do: run as the user who owns it, or set PYPI_RUNBOOK_HOME to another folder.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"runbook: {INTERRUPTED}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as head, has stopped reading.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
