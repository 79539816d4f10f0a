"""What a sweep saves: images by stopping trials early, processor time by starting them cheaply.

``early`` sweeps over the same 16 trials twice, once without stopping any and once with ASHA, both
confirmed with further seeds, and compares what they have trained and found. Then the whole curves
are judged again as they would have come in other orders. Repeat the command after it was killed: a
sweep goes on, and one that has finished is only read.

``start`` has Ray Tune run trials of one step, one after the other: in the process that Tune gives
the trial, as sweeps do with trials of one worker, and in a worker of Ray Train below that process.
It prints medians over all trials but the first, which finds nothing warm. Both by default::

    python benchmarks/sweep.py [early] [start] [out=DIR]
"""

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from starting import settings, start

from ray_diffusion.cluster.sweeping.confirm import DECIDES
from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial, ranked
from ray_diffusion.cluster.sweeping.plan import opened
from ray_diffusion.cluster.sweeping.rungs import RULES, Rule
from ray_diffusion.config.sweep import load_sweep
from ray_diffusion.evaluation.verdict import verdict

AT_ONCE, ORDERS = 2, 200
SWEEP = f"""
method: random
run_cap: 16
metric: {{name: val/score}}
early_terminate: {{type: RULE}}
resources: {{max_concurrent: {AT_ONCE}}}
confirm: {{top: 2, seeds: 2, num_images: 359}}
parameters:
  optim.lr: {{min: 1e-4, max: 3e-2, distribution: log_uniform}}
  diffusion.beta_schedule: {{values: [cosine, linear, sigmoid, laplace]}}
  model.channels: {{value: 16}}
  model.blocks_per_level: {{value: 1}}
  training.total_images: {{value: 16_000}}
  training.validate_every_images: {{value: 1_792}} # just after the first rungs
"""
RULE_OF = {"full": "none", "asha": "asha"}  # by the sweep's name
ROWS: dict[str, Callable[[Findings], str]] = {
    "images trained": lambda found: f"{found.images_trained:,}",
    "seconds of the trials": lambda found: f"{sum(one.seconds for one in found.chosen):.0f}",
    "seconds with confirmation": lambda found: f"{found.seconds:.0f}",
    "best by val/score": lambda found: found.chosen[0].name,
    "winner, confirmed": lambda found: found.winner.name if found.winner else "-",
}


def early(out: Path) -> None:
    """Sweep with and without stopping trials, and compare."""
    out.mkdir(parents=True, exist_ok=True)
    full, asha = (swept(out, name, rule) for name, rule in RULE_OF.items())
    print_findings({"none is stopped": full, "ASHA": asha})
    print_winners(full, asha)
    print_orders(full, asha)


def swept(out: Path, name: str, rule: str) -> Findings:
    """What a sweep finds; one that has finished before is only read."""
    file = out / f"{name}.yaml"
    file.write_text(SWEEP.replace("RULE", rule))
    command = [sys.executable, "-m", "ray_diffusion.sweep", str(file), *settings(out)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    findings = opened(load_sweep(file, settings(out)), file, "").found()
    assert findings is not None
    return findings


def print_findings(sweeps: dict[str, Findings]) -> None:
    print(f"\n{'':<30}" + "".join(f"{name:>20}" for name in sweeps))
    for row, cell in ROWS.items():
        print(f"{row:<30}" + "".join(f"{cell(found):>20}" for found in sweeps.values()))


def print_winners(full: Findings, asha: Findings) -> None:
    """Whether both have found the same, or as good a trial."""
    best, other = full.winner, asha.winner
    assert best is not None
    assert other is not None
    places = [trial.name for trial in full.chosen]
    place = f"place {places.index(other.name) + 1} of {len(places)} by val/score"
    print(f"\nASHA saves {saved(asha.chosen, full):.0%} of the images.", end=" ")
    print(f"Its winner is {place}, {'the same' if other.name == best.name else 'another one'}:")
    for metric in (DECIDES, "val/score"):
        groups = ((full, best), (asha, other))
        found = {trial.name: over_seeds(sweep, trial, metric) for sweep, trial in groups}
        judged = verdict(metric, found)
        alone = f"{other.name}: {metric} {judged.candidates[0].text}"
        print(f"  {judged.text if len(found) > 1 else alone}")
    whole = {trial.name: trial.curve for trial in full.chosen}
    points = [(trial.name, *point) for trial in asha.chosen for point in trial.curve.items()]
    same = sum(whole[name].get(images) == value for name, images, value in points)
    print(f"{same} of its {len(points)} figures are to the bit those of the trials trained fully.")


def over_seeds(found: Findings, trial: Trial, metric: str) -> list[float]:
    """A figure of a trial and of its repeats."""
    return [t.figures[metric] for t in found.trials if trial.name in (t.name, t.repeats)]


def saved(trials: Sequence[Trial], full: Findings) -> float:
    """Share of the images of whole trials that others were not trained on."""
    return 1 - sum(trial.images_seen for trial in trials) / full.images_trained


def print_orders(full: Findings, asha: Findings) -> None:
    """What ASHA would have saved and found, had the same trials come in other orders."""
    early, total = asha.plan.sweep.early_terminate, asha.plan.base.training.total_images
    trials = [trial for trial in full.chosen if trial.curve]  # a failed one may have no figure
    at = random.Random(0)
    orders = [at.sample(trials, len(trials)) for _ in range(ORDERS)]
    found = [replayed(order, RULES[early.type](early, total)) for order in orders]
    shares = [saved(replay, full) for replay in found]
    hits = sum(ranked(replay)[0].name == trials[0].name for replay in found) / ORDERS
    print(
        f"In {ORDERS} other orders it saves {median(shares):.0%} (median), at the least "
        f"{min(shares):.0%}; the best by val/score is that of full training in {hits:.0%}."
    )


def replayed(order: Sequence[Trial], rule: Rule) -> list[Trial]:
    """What becomes of whole trials under a rule, if all are equally fast."""
    running: list[tuple[Trial, list[tuple[int, float]]]] = []
    waiting, over = [*order], []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            trial = waiting.pop(0)
            running.append((replace(trial, curve={}), sorted(trial.curve.items())))
        for one in [*running]:
            trial, points = one
            images, value = points.pop(0)
            trial.curve[images] = value
            if not rule.goes_on(trial.name, images, value):
                trial.state = "stopped"
            if trial.state == "stopped" or not points:
                running.remove(one)
                over.append(trial)
    return over


PARTS: dict[str, Callable[[Path], None]] = {"early": early, "start": lambda out: start()}


def main() -> None:
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    out = Path(options.get("out", "build/sweep")).resolve()
    for part in [word for word in words if "=" not in word] or PARTS:
        PARTS[part](out)


if __name__ == "__main__":
    main()
