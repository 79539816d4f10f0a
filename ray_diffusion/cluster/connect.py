"""Reach the cluster that is meant: a given address, the job we run in, or this machine."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_diffusion.errors import ClusterError

OBJECT_STORE_BYTES = 200 * 2**20  # of a local Ray: the default, 30 % of memory, would lie idle
PROBE_TIMEOUT_S = 5.0  # of the TCP connection that tells a dead address before Ray's long retries


def _choose_authentication() -> None:
    """Let Ray use the token that the machine has; read by Ray once, when it is imported."""
    if os.environ.get("RAY_ADDRESS") and "RAY_AUTH_MODE" not in os.environ:
        token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
        if os.environ.get("RAY_AUTH_TOKEN") or token.exists():
            os.environ["RAY_AUTH_MODE"] = "token"


def _silence() -> None:
    """Settings that Ray and its children read from the environment."""
    for name, value in {
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # workers' prints would appear twice
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the new behaviour; the old one warns
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of the user mean what they say
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # a dead worker is noticed twice as fast
        # For their placement; tried again for ever. Ray counts a dead node in at first, so an
        # elastic run waits so long for it before it goes on with fewer.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    }.items():
        os.environ.setdefault(name, value)


def _probe(address: str) -> None:
    match = re.fullmatch(r"(?:ray://)?\[?([^\]/]+?)\]?:(\d+)", address)
    if match is None:
        return  # "auto" or "local": nothing to knock at
    try:
        socket.create_connection((match[1], int(match[2])), PROBE_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClusterError(
            f"no Ray cluster answers at {address} (RAY_ADDRESS): {reason.lower()}; start one with "
            "`ray start --head`, or unset RAY_ADDRESS to train on this machine"
        ) from error


@contextmanager
def connected(least_cpus: int = 1) -> Iterator[None]:
    """Be connected to Ray; what was started here ends here.

    ``RAY_ADDRESS`` names a running cluster; Ray itself sets it inside a job. Without it, a
    cluster of one node is started on this machine.

    Args:
        least_cpus: CPUs that a cluster started here offers, if the machine has fewer: workers
            then share cores.

    Yields:
        Nothing.

    Raises:
        ClusterError: If the address does not answer or refuses us.
    """
    _choose_authentication()
    _silence()
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _probe(address)
    import ray

    how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if not address or address == "local":  # what a running cluster has is not for us to say
        how["num_cpus"] = max(least_cpus, os.cpu_count() or 1)
        how |= {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address=address or "local", **how)
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ClusterError(f"cannot use Ray at {address or 'this machine'}: {first}") from error
    try:
        yield
    finally:
        ray.shutdown()
