"""How a verb that works on shards reaches stores."""

from pydantic import Field

from ray_diffusion.config.values import StorageOptions, Values


class Reach(Values):
    """How stores are reached."""

    storage_options: StorageOptions = Field(
        default=(), description="As run.storage_options: PROTOCOL.OPTION=VALUE, ..."
    )
    forward_env: tuple[str, ...] = Field(
        default=(), description="As cluster.forward_env: variables that tasks on Ray get, by name."
    )
