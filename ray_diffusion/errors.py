"""Every error that a user can cause or meet, and the exit code that each one ends a command with.

::

    RayDiffusionError        1   (itself never raised)
    ├── UsageError           2   the command line asks for something that cannot be
    │   └── ConfigError      2   one or more config keys are wrong; lists them all
    ├── EnvironmentFailure   3   the world outside is not as needed
    │   ├── StorageError     3   a directory or bucket cannot be read or written
    │   ├── DataError        3   a dataset is missing, damaged or of the wrong kind
    │   ├── TrackingError    3   MLflow is unreachable where it cannot be done without
    │   └── ClusterError     3   Ray is unreachable or too small
    ├── WorkersFailed        1   the workers failed more often than they may be restarted
    ├── Diverged             4   the loss or a gradient is no longer finite
    ├── BudgetSpent          5   a sweep's budget is spent; what was found until then is there
    └── Preempted           75   stopped on request after a checkpoint: run the same command again

Anything else that escapes a command is a bug and exits with 1 and its traceback.
"""

import signal
import sys
from collections.abc import Callable, Sequence


class RayDiffusionError(Exception):
    """Base of all errors with a message for the user; ``exit_code`` ends the command."""

    exit_code = 1


class UsageError(RayDiffusionError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class ConfigError(UsageError):
    """One or more config keys are wrong.

    Args:
        problems: One line for each wrong key.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        # Exceptions pickle by their args; ours are the problems, not the joined text.
        return type(self), (self.problems,)


class EnvironmentFailure(RayDiffusionError):
    """The world outside is not as needed."""

    exit_code = 3


class StorageError(EnvironmentFailure):
    """A directory or bucket cannot be read or written."""


class DataError(EnvironmentFailure):
    """A dataset is missing, damaged or of the wrong kind."""


class TrackingError(EnvironmentFailure):
    """MLflow is unreachable where it cannot be done without."""


class ClusterError(EnvironmentFailure):
    """Ray is unreachable or too small."""


class WorkersFailed(RayDiffusionError):
    """The workers failed more often than ``cluster.max_failures`` allows."""


class Diverged(RayDiffusionError):
    """The loss or a gradient is no longer finite."""

    exit_code = 4


class BudgetSpent(RayDiffusionError):
    """A sweep has spent its budget; what was found until then is there."""

    exit_code = 5


class Preempted(RayDiffusionError):
    """Stopped on request after a checkpoint; the same command continues the run."""

    exit_code = 75


def warn(message: str) -> None:
    """Tell the user something that does not stop the command, on stderr."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def run(verb: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Run a verb and turn its errors into one line each on stderr and an exit code.

    Args:
        verb: The command; takes the arguments behind its name.
        argv: The arguments; the process's own when None.

    Returns:
        The exit code: 0 when the verb returned, the error's own where it raised one of ours (whose
        notes go to stdout), 130 after Ctrl-C. Bugs are not caught: their traceback is wanted.
    """
    try:
        verb(sys.argv[1:] if argv is None else argv)
    except RayDiffusionError as error:
        for note in getattr(error, "__notes__", []):
            print(f"\n{note}", flush=True)
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `... | head` closed our stdout: not our error
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    return 0
