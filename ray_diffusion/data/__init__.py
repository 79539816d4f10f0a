"""From images to batches: sources -> shards and manifest -> order -> cache -> batches.

A dataset is a directory in any storage: plain webdataset tar shards and a ``manifest.json``,
written last, that says what they hold. No manifest, no dataset. This room knows nothing of
diffusion: it yields uint8 images, class labels and where they stand in the order.

``packing`` makes datasets, of images of any origin. To add a built-in one, write a function
``(num_examples) -> Source`` and add it to ``EMBEDDED`` in ``packing/embedded.py``.
"""
