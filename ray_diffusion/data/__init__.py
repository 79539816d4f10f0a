"""From images to batches: sources -> shards and manifest -> order -> cache -> batches.

A dataset is a directory in any storage: plain webdataset tar shards and a ``manifest.json``,
written last, that says what they hold. No manifest, no dataset. This room knows nothing of
diffusion: it yields uint8 images, class labels and where they stand in the order.

To add a built-in source, write a function ``(image_size) -> Source`` and add it to ``SOURCES`` in
``sources.py``.
"""
