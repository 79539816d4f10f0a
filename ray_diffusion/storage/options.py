"""Settings of storage clients, handed on through the environment as fsspec reads it.

The environment reaches every process that is started from here, so no function has to pass
settings along. Workers on other machines apply those of their configuration themselves.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import fsspec.config

from ray_diffusion.errors import UsageError

# S3 clients try again at three levels: botocore, s3fs, and those who call Directory and can wait.
# With the first one's defaults, an endpoint that never answers would take 36 s instead of 10.
ATTEMPTS, CONNECT_TIMEOUT_S = 3, 3
CONNECTIONS = 32  # of a client; the default of 10 is fewer than a reader asks for at once


def environment(options: Sequence[str]) -> dict[str, str]:
    """The variables that say the same as some options, on top of what is set already.

    Args:
        options: Each ``PROTOCOL.OPTION=VALUE``; a dot in OPTION leads into a group of options,
            and VALUE is read as JSON if it is JSON: ``s3.client_kwargs.verify=false``.

    Returns:
        ``FSSPEC_<PROTOCOL>`` for each protocol, a JSON object.

    Raises:
        UsageError: If an option is a value and a group at once, or a variable is set to nonsense.
    """
    found: dict[str, dict[str, Any]] = {}
    for option in options:
        name, _, text = option.partition("=")
        protocol, *groups, last = name.split(".")
        variable = f"FSSPEC_{protocol.upper()}"
        into = found.setdefault(variable, _set_already(variable))
        for group in groups:
            into = into.setdefault(group, {})
            if not isinstance(into, dict):
                raise UsageError(f"storage option {name}: {group} is a value, not a group")
        try:
            into[last] = json.loads(text)
        except ValueError:
            into[last] = text
    return {variable: json.dumps(values) for variable, values in found.items()}


def _set_already(variable: str) -> dict[str, Any]:
    try:
        found = json.loads(os.environ.get(variable, "{}"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"the environment variable {variable} is no JSON object")
    return found


def use(options: Sequence[str]) -> None:
    """Let this process, and those it starts, use some options from now on."""
    os.environ.update(environment(options))
    fsspec.config.set_conf_env(fsspec.config.conf)


def client_settings(url: str) -> dict[str, Any]:
    """How long the client of a storage tries and how much at once, where the user does not say.

    Args:
        url: Where the storage is.

    Returns:
        Arguments for fsspec beside the URL.
    """
    if not url.startswith("s3://"):
        return {}
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
    ours = {
        "retries": {"total_max_attempts": attempts},
        "connect_timeout": CONNECT_TIMEOUT_S,
        "max_pool_connections": CONNECTIONS,
    }
    return {"config_kwargs": ours | fsspec.config.conf.get("s3", {}).get("config_kwargs", {})}
