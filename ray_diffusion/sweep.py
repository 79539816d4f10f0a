"""Sweep over what a file says: trials side by side on Ray, the best confirmed with further seeds.

key.path=value sets a key in the base of all trials. The same command again continues the sweep,
whatever stopped it.
"""

import os
import shlex
import sys
from collections.abc import Mapping

from ray_diffusion import config, errors


def main(argv: list[str]) -> None:
    """Sweep, or say why not.

    Args:
        argv: ``FILE.yaml [key.path=value ...] [--dry-run] [--promote]``.
    """
    options = config.sweep_command_line(argv, doc=__doc__, have=_machine())
    if options.promote and not options.plan.draws:
        raise errors.UsageError(
            "promote: the trials are autoencoders, which draw no images to be promoted by; leave "
            "it out, and register the winner by training it again, as the report says, with "
            "tracking.registered_model=NAME"
        )
    from ray_diffusion.cluster.connect import connected
    from ray_diffusion.cluster.sweeping.plan import opened
    from ray_diffusion.cluster.sweeping.table import block

    command = shlex.join(["python", "-m", "ray_diffusion.sweep", *argv])
    sweeping = opened(options.plan, options.file, command)
    print(sweeping.describe(), flush=True)
    if options.dry_run:
        print("\ndry run: nothing was changed")
        return
    findings = sweeping.found()
    if findings is not None:
        print("\nalready finished; another name starts anew")
    else:
        with connected(least_cpus=1):
            from ray_diffusion.cluster.sweeping.search import search

            findings = search(sweeping)
    print(f"\n{block(findings)}")
    if options.promote:
        from ray_diffusion import evaluate

        evaluate.main(findings.promoting("champion"))


def _machine() -> Mapping[str, float] | None:
    """What is known of the cluster before it is reached; nothing of one that runs already."""
    here = os.environ.get("RAY_ADDRESS", "local") in ("", "local")
    return {"CPU": os.cpu_count() or 1} if here else None


if __name__ == "__main__":
    sys.exit(errors.run(main))
