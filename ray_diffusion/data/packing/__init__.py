"""From images of any origin to a dataset: source -> inspect -> choose -> write -> manifest.

* A **source** (``inputs.py``) lists records and says how the bytes of one are loaded.
* **inspect** looks at every image once and says what it is, or why it cannot be used.
* **choose** leaves out what is refused or doubled, and divides the rest into splits.
* **write** renders the images of one output shard and publishes it as one object.
* The **manifest** is written last: an interrupted packer leaves no dataset.

Every stage is a function of values, so the same request writes the same bytes on any number of
workers and after any interruption. To add a kind of input, write a function that returns a
``Source`` and add it to ``INPUTS``.
"""
