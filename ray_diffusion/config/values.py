"""The kinds of values that config keys hold.

Pydantic alone would read ``true`` as 1 and ``"3"`` as 3; a config that means something else than it
says is worse than one that is refused, so these types take only what they name.
"""

from typing import Annotated, Final

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Strict
from pydantic.config import JsonDict

# Marks keys that say where or how fast a run goes, not what it learns.
MAY_CHANGE: Final[JsonDict] = {"may_change": True}


def _without_point(value: object) -> object:
    # `training.total_images=1e6` is a float to YAML and a whole number to anyone else.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, Strict(), BeforeValidator(_without_point)]
Float = Annotated[float, Strict(), AllowInfNan(False)]
Bool = Annotated[bool, Strict()]


class Values(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
