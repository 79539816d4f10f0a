"""What image quality costs in network evaluations: every solver, on one trained model.

Prints the Frechet distance and the class accuracy of each solver at each number of evaluations,
and draws a picture of it. Works in two processes of one thread; what was measured is kept, and not
measured again when the command is repeated::

    python benchmarks/samplers.py [RUN] [out=DIR] [picture=FILE.png]
"""

import sys
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from measuring import Found, Job, gather, quality

from ray_diffusion import pipeline
from ray_diffusion.diffusion.solvers import SOLVERS

DISTANCES = (0.2, 0.5, 1, 2, 5, 10, 20, 50)  # the picture's scale
EVALUATIONS = (5, 10, 15, 20, 30, 50, 100)
GRIDS = ("trailing", "uniform_logsnr", "karras")
COLOURS = ("#4878a8", "#d1605e", "#3a923a", "#8d6cab")
BASE = {"grid": "trailing", "variance": "beta_tilde", "eta": 0.0, "guidance_scale": 1.0}
# euler is ddim by another name, and ddim with eta 1 is ddpm with beta_tilde.
ROWS: dict[str, Job] = {
    f"{solver}, {grid}": {"solver": solver, "grid": grid}
    for solver, grids in {
        "ddim": GRIDS,
        "heun": GRIDS,
        "dpmpp_2m": GRIDS,
        "euler_maruyama": GRIDS[:2],
        "predictor_corrector": GRIDS[:2],
        "langevin": GRIDS[:2],
    }.items()
    for grid in grids
} | {
    f"ddpm, {variance}": {"solver": "ddpm", "variance": variance}
    for variance in ("beta_tilde", "beta", "analytic")
}


def measure(job: Job) -> Found:
    """The figures of one solver at one number of evaluations."""
    sampler = dict(job)
    return quality(pipeline.load(sampler.pop("model"), sampler=sampler))


def jobs(model: str) -> dict[str, Job]:
    return {
        cell(row, count): BASE | changes | {"num_inference_steps": count, "model": model}
        for count in EVALUATIONS
        for row, changes in ROWS.items()
    }


def cell(row: str, count: int) -> str:
    return f"{row}, {count}"


def print_table(found: dict[str, Found], figure: str, form: str) -> None:
    print(f"\n{figure}:\n\n| solver | " + " | ".join(map(str, EVALUATIONS)) + " |")
    print("|---|" + "---|" * len(EVALUATIONS))
    for row in ROWS:
        cells = (found[cell(row, count)] for count in EVALUATIONS)
        values = (f"{one[figure]:{form}} ± {one[f'{figure} sd']:{form}}" for one in cells)
        print(f"| {row} | " + " | ".join(values) + " |")


def print_choice(found: dict[str, Found]) -> None:
    """How few evaluations do, up to the noise between sets of images."""
    noise = median(one["fd sd"] for one in found.values())
    best = min(one["fd"] for one in found.values())
    print(f"\nThe best fd is {best:.2f}; sets of images differ by {noise:.2f} (median sd).")
    print("Least evaluations to come within that of the best of all, and of the row's own best:")
    print("\n| solver | own best | of all | of its own |\n|---|---|---|---|")
    for row in ROWS:
        values = {count: found[cell(row, count)]["fd"] for count in EVALUATIONS}
        own = min(values.values())
        least = (
            next((str(count) for count, value in values.items() if value <= goal + noise), "-")
            for goal in (best, own)
        )
        print(f"| {row} | {own:.2f} | " + " | ".join(least) + " |")


def plot(found: dict[str, Found], path: Path) -> None:
    """The distance of each solver against its evaluations, beside the floor of real images."""
    figure = Figure(figsize=(12, 5.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    noiseless = [row for row, changes in ROWS.items() if not SOLVERS[changes["solver"]].stochastic]
    noisy = [row for row in ROWS if row not in noiseless]
    floor = next(iter(found.values()))["fd real"]
    for axes, rows, title in zip(
        panels, (noiseless, noisy), ("solvers without noise", "solvers that add noise"), strict=True
    ):
        draw_lines(axes, found, rows)
        axes.axhline(floor, color="black", linestyle=(0, (6, 4)), linewidth=1)
        axes.text(EVALUATIONS[0], floor * 0.97, "real images", va="top", fontsize=8)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("network evaluations per image")
    panels[0].set_ylabel("Frechet distance")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_lines(axes: Axes, found: dict[str, Found], rows: list[str]) -> None:
    """A colour for each solver, a style for each of its grids or variances."""
    solvers = list(dict.fromkeys(str(ROWS[row]["solver"]) for row in rows))
    for row in rows:
        solver = str(ROWS[row]["solver"])
        variants = [other for other in rows if ROWS[other]["solver"] == solver]
        values = [found[cell(row, count)]["fd"] for count in EVALUATIONS]
        style = ("-", "--", ":")[variants.index(row)]
        colour = COLOURS[solvers.index(solver)]
        axes.plot(EVALUATIONS, values, style, color=colour, marker=".", label=row)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(EVALUATIONS, [str(count) for count in EVALUATIONS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(DISTANCES, [f"{distance:g}" for distance in DISTANCES])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))


def main() -> None:
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    model = next((word for word in words if "=" not in word), "runs/digits")
    out = Path(options.get("out", "build/samplers"), "results.json")
    found = gather(measure, jobs(pipeline.load(model).source), out)
    real = next(iter(found.values()))
    for figure, form in {"fd": ".2f", "class_accuracy": ".3f"}.items():
        print_table(found, figure, form)
        print(f"\nReal images: {real[f'{figure} real']:.3f}.")
    print_choice(found)
    plot(found, Path(options.get("picture", "docs/images/samplers.png")))


if __name__ == "__main__":
    main()
