"""The file of an example's latents: an array of float16, as ``numpy.save`` writes it.

Its header is written and compared as a whole, so that nothing in it is ever interpreted.
"""

import math

import numpy as np
from numpy.typing import NDArray

EXTENSION = "npy"
MAGIC = b"\x93NUMPY\x01\x00"  # of format version 1.0
HEADER = 118  # bytes behind it and their number; so that the values start at a multiple of 64


def to_npy(latents: NDArray[np.float16]) -> bytes:
    """The file of some latents.

    Args:
        latents: Of up to ten dimensions.
    """
    return _header(latents.shape) + latents.astype("<f2", copy=False).tobytes()


def from_npy(content: bytes, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """The latents in a file.

    Args:
        content: The file.
        shape: Of what it should hold.

    Returns:
        The latents, read-only; they share the content's memory.

    Raises:
        ValueError: If the file holds anything else; the message follows "latents that".
    """
    header = _header(shape)
    if not content.startswith(header):
        raise ValueError(f"are no npy file of float16, shape {shape}, as the manifest says")
    if len(content) != len(header) + 2 * math.prod(shape):
        raise ValueError(f"have {len(content) - len(header)} bytes, not {2 * math.prod(shape)}")
    return np.frombuffer(content, "<f2", offset=len(header)).reshape(shape)


def _header(shape: tuple[int, ...]) -> bytes:
    # Little-endian, in C order. numpy pads its header in the same way.
    said = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
    return MAGIC + HEADER.to_bytes(2, "little") + f"{said:<{HEADER - 1}}\n".encode()
