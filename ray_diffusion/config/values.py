"""The kinds of values that config keys hold.

Pydantic alone would read ``true`` as 1 and ``"3"`` as 3; a config that means something else than it
says is worse than one that is refused, so these types take only what they name.
"""

import re
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

# Marks keys that say where or how fast a run goes, not what it learns.
MAY_CHANGE: Final[JsonDict] = {"may_change": True}


def _without_point(value: object) -> object:
    # `training.total_images=1e6` is a float to YAML and a whole number to anyone else.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, Strict(), BeforeValidator(_without_point)]
Float = Annotated[float, Strict(), AllowInfNan(False)]
Bool = Annotated[bool, Strict()]
Count = Annotated[Int, Field(ge=1)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters or line ends")
    return text


Text = Annotated[str, AfterValidator(_printable)]


def _plain(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            "must be 1 to 100 letters, digits, dots, dashes or underscores, "
            "the first a letter or digit"
        )
    return name


Name = Annotated[str, AfterValidator(_plain)]


SECRET: Final = r"key|secret|token|password|credential|connection_string|sas"
# The names in a JSON value count as names too, and a URL can hold a password.
SECRET_VALUE: Final = re.compile(rf'"[^"]*({SECRET})[^"]*"\s*:|://[^/]*@', re.IGNORECASE)


def without_secrets(value: object) -> object:
    """Check a list of ``PROTOCOL.OPTION=VALUE``, and that none is a secret; one may stand alone.

    Raises:
        PydanticCustomError: If one is neither. The line is for logs, so it repeats no value.
    """
    options = [value] if isinstance(value, str) else value
    form = "each must be PROTOCOL.OPTION=VALUE, such as s3.endpoint_url=http://minio:9000"
    if not isinstance(options, list | tuple) or not all(isinstance(o, str) for o in options):
        raise PydanticCustomError("storage_option", form)
    for option in options:
        name, _, said = option.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9]+(\.\w+)+", name) or not said or not said.isprintable():
            raise PydanticCustomError("storage_option", form)
        if re.search(SECRET, name.partition(".")[2], re.IGNORECASE) or SECRET_VALUE.search(said):
            raise PydanticCustomError(
                "storage_option",
                "{name} holds a credential; set it in the environment instead",
                {"name": name},
            )
    return options


StorageOptions = Annotated[tuple[str, ...], BeforeValidator(without_secrets)]


class Values(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
