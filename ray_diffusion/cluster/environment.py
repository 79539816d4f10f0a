"""What processes on other machines get to know of this one's environment."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ray_diffusion.errors import UsageError
from ray_diffusion.storage import options

TRACKING = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


def forwarded(names: Sequence[str]) -> dict[str, str]:
    """The environment variables that are to be handed on.

    They travel as arguments of tasks and actors. Ray's own ``runtime_env`` would be simpler, and
    writes every value to a log file.

    Args:
        names: ``cluster.forward_env``.

    Raises:
        UsageError: If one of them is not set here.
    """
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(f"forward_env: {', '.join(missing)} is not set here")
    return {name: os.environ[name] for name in names}


def tracking_access() -> dict[str, str]:
    """What says here where MLflow is and who asks it; it travels as ``forwarded`` does."""
    return {name: os.environ[name] for name in TRACKING if name in os.environ}


@contextmanager
def applied(environment: Mapping[str, str], storage_options: Sequence[str]) -> Iterator[None]:
    """Let this process reach what the driver reaches; afterwards it forgets the variables.

    Args:
        environment: As ``forwarded`` made it.
        storage_options: ``run.storage_options``.
    """
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    options.use(storage_options)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
