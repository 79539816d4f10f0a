"""Train a diffusion model on Ray: on this machine, on RAY_ADDRESS, or inside a Ray job.

The same command again continues the run, whatever stopped it. mlflow:RUN_ID starts a run again, as
NAME-again, from nothing but its page in MLflow.
"""

import sys

from ray_diffusion import config, errors


def main(argv: list[str]) -> None:
    """Train, or say why not.

    Args:
        argv: ``[PRESET | FILE.yaml | mlflow:RUN_ID] [key.path=value ...] [--dry-run | --profile]``.
    """
    from ray_diffusion.cluster.reproduce import SCHEME, Reproduction

    page = Reproduction()
    options = config.command_line(argv, verb="train", doc=__doc__, fetch={SCHEME: page.fetch})
    from ray_diffusion.cluster.connect import connected
    from ray_diffusion.cluster.lineage import ship_leftovers
    from ray_diffusion.cluster.plan import prepare

    plan = prepare(options.config)
    print(plan.describe(), flush=True)
    for line in page.differences(plan.identity.tags):
        errors.warn(line)
    if plan.finished and not (options.dry_run or options.profile):
        print("\nalready finished; another run.name starts anew\n")
        if not plan.finished.shipped:
            plan.finished.shipped, plan.finished.mlflow_run_id = ship_leftovers(
                plan.config, plan.identity
            )
            plan.finished.write(plan.run)
        print(plan.finished.block())
        return
    cluster = plan.config.cluster
    wanted = cluster.most_workers * (cluster.cpus_per_worker or 1)
    with connected(least_cpus=wanted):
        from ray_diffusion.cluster.launch import fit
        from ray_diffusion.cluster.rehearsal import profile, rehearse

        if options.dry_run:
            print(f"{rehearse(plan)}\n\ndry run: nothing was changed")
            return
        if options.profile:
            print(f"{profile(plan)}\n\nprofile: the run itself was not changed")
            return
        summary = fit(plan)
    print(f"\n{summary.block()}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
