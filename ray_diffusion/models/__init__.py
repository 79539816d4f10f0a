"""Networks ``(x_t, logsnr, condition) -> prediction``, their average, and the pixel codec.

To add a network, write a module whose ``forward`` has that signature and add it to ``MODELS`` in
``build.py``.
"""
