"""Where training meets Ray: connect, plan, launch, watch.

``connect`` must come before the first ``import ray`` (it chooses Ray's authentication mode, which
is read at that import); so ``plan``, ``lineage``, ``progress`` and ``summary`` do without Ray, and
``launch``, ``worker`` and ``board`` are imported after connecting.

::

    plan = prepare(config)          # everything that can be checked without a cluster
    with connected(plan.config):    # this machine, RAY_ADDRESS, or the job we run in
        summary = launch.fit(plan)
"""
