"""Codecs: between images and the latents that a diffusion model may work on instead.

``codec.py`` says what a codec is, ``stored.py`` keeps one in files, ``space.py`` is what training
and drawing see: pixels, or standardised latents. To add a codec, write a ``Codec`` in a module of
its own and add it to ``CODECS`` in ``stored.py``.
"""
