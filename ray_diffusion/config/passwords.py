"""Passwords in URLs, which no record of a run and no line on a screen may hold."""

import re
from typing import Final

# Up to the last @, as Python's own reading of URLs has it. A number that ends there is a port.
PASSWORD: Final = re.compile(r"(://[^/@\s:]*):(?!\d+(?:[/?#,;'\"\])]|\s|$))\S*@")


def without_passwords(text: str) -> str:
    """A text in which three asterisks stand for the password of each URL.

    >>> without_passwords("https://me:secret@mlflow:5000/, http://mlflow:5000/")
    'https://me:***@mlflow:5000/, http://mlflow:5000/'
    """
    return PASSWORD.sub(r"\1:***@", text)
