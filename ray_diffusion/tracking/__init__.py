"""Metrics, artifacts and lineage of a run: on local disk first, in MLflow when it can be reached.

::

    Tracker.log ──► Spool (NAME.jsonl) ──► Shipper (a thread) ──► MLflow
                      │ one point for each (name, step)  │ finds the run by its key
                      └──► curve.plot_loss               └ retries, never raises

The one convention: whoever records never waits for a server and never sees its errors. What a
caller gets is a fact about the disk (`spool`) or a count (`Tracker.backlog`). The exception is
`run.find_or_create`, for a launch that wants the run's id early and says how long it will wait.

To log something new, call ``tracker.log(images_seen, {"area/name": value})`` from the process that
knows it; nothing has to be declared. A process that records beside the ones there are needs a role
of its own (`tracker.Role`), as a spool has one writer.
"""
