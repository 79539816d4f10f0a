"""Networks ``(x_t, logsnr, condition) -> prediction``, their average, and codecs.

``unet``, ``dit``, and from tutorials ``tutorial_unet`` and ``tiny``, are networks; they share
``embedding`` and ``attention``. To add one, write a module whose ``forward`` has that signature and
add it to ``DENOISERS`` in ``build.py`` and to ``model.kind`` in ``config/schema.py``.
"""
