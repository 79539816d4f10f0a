import io
import math
import os
import random
import re
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from page_reader import read
from PIL import Image

from ray_diffusion import config
from ray_diffusion.cluster.sweeping.findings import Findings
from ray_diffusion.cluster.sweeping.journal import Trial, trial_name
from ray_diffusion.cluster.sweeping.report import page, reproduction
from ray_diffusion.config.sweep import Resources, load_sweep
from ray_diffusion.evaluation.verdict import verdict
from ray_diffusion.storage import Directory

TOTAL = 64_000
EVIL = "<script>alert('&')</script>"
SWEEP = """
name: schedules
base: base.yaml
method: random
run_cap: 64
parameters:
  diffusion.beta_schedule: {values: [cosine, linear, sigmoid]}
  optim.lr: {min: 1e-5, max: 1e-2, distribution: log_uniform}
early_terminate: {type: asha, grace: 0.25, eta: 2}
"""


def sheet(size: int = 1) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (10 * size, 4 * size), os.urandom(120 * size * size)).save(file, "png")
    return file.getvalue()


def a_sweep(at: Path, trials: int = 7, text: str = SWEEP) -> Findings:
    """A sweep of which the trials with an odd number were stopped half way."""
    (at / "base.yaml").write_text("model:\n  channels: 24\n")
    (at / "sweep.yaml").write_text(text)
    overrides = [f"run.storage_url={at}/runs", f"training.total_images={TOTAL}"]
    plan = load_sweep(at / "sweep.yaml", overrides)
    home = Directory(f"{at}/runs/{plan.sweep.name}")
    chosen = [Trial(trial_name(i), plan.values(i), seconds=10.0 + i) for i in range(trials)]
    for i, trial in enumerate(chosen):
        trial.state = "stopped" if i % 2 else "finished"
        last = TOTAL // 2 if i % 2 else TOTAL
        trial.curve = {seen: 1 + i / 100 for seen in range(8000, last + 1, 8000)}
        if trial.state == "finished":
            trial.figures = {"val/score": trial.value, "sample/fd": 5 + i / 10}
            run = home / trial.name
            run.write("profile.csv", f"logsnr,eps_mse\n-1,{0.1 + i}\n0,{0.2 + i}\n1,{0.3 + i}\n")
            run.write("samples/000000032000.png", sheet())
            run.write("samples/000000064000.png", sheet())
            run.write("samples/000000064000-raw.png", sheet())
            run.write("samples/grid.png", sheet())
    words = ["python", "-m", "ray_diffusion.sweep", str(at / "sweep.yaml"), *overrides]
    return Findings(plan, home, chosen, None, 100.0, shlex.join(words))


def confirmed(found: Findings) -> Findings:
    """With the two best tried again; the second turns out best."""
    again = [
        Trial(f"{name}-seed-{seed}", {}, name, "finished", {TOTAL: 1.0}, seconds=7.0)
        for name in ("trial-0000", "trial-0002")
        for seed in (1, 2)
    ]
    said = verdict("sample/fd", {"trial-0000": (6.0, 6.5, 7.0), "trial-0002": (5.25, 5.0, 5.125)})
    return Findings(found.plan, found.home, [*found.trials, *again], said, 100.0, found.command)


def sections(html: str) -> dict[str, str]:
    found = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", html, re.DOTALL)
    return {unescape(title): content for title, content in found}


def said(html: str) -> str:
    return " ".join(read(html).text)


def test_everything_is_there_in_its_order(tmp_path: Path):
    found = sections(page(confirmed(a_sweep(tmp_path))))
    assert list(found) == [
        "Search",
        "Winner",
        "Confirmation",
        "Trials",
        "Curves",
        "Parameters",
        "What matters",
        "Quality against cost",
        "Does the search's figure agree with the images?",
        "Error by noise level",
        "Images",
        "Cost",
        "Commands",
    ]


def test_the_winner_is_that_of_the_confirmation_with_its_spread_and_the_verdict(tmp_path: Path):
    found = confirmed(a_sweep(tmp_path))
    parts = sections(page(found))
    winner = said(parts["Winner"])
    assert "trial-0002" in winner
    assert "5.12 ± 0.125 over 3 seeds" in winner
    assert found.verdict is not None
    assert found.verdict.text in winner
    rows = re.findall(r"<tr><th>(trial-\d+)</th>(.*?)</tr>", parts["Confirmation"])
    assert [name for name, _ in rows] == ["trial-0002", "trial-0000"]
    assert read(rows[0][1]).text == ["5.25", "5", "5.125", "5.125", "0.125"]
    assert read(rows[1][1]).text == ["6", "6.5", "7", "6.5", "0.5"]


def test_without_a_confirmation_the_page_says_that_the_lead_may_be_noise(tmp_path: Path):
    parts = sections(page(a_sweep(tmp_path)))
    assert "trial-0000" in parts["Winner"]
    assert "noise is not known" in parts["Winner"]
    assert "Confirmation" not in parts


def test_trials_stand_best_first_with_all_that_is_known_of_them(tmp_path: Path):
    found = a_sweep(tmp_path, 4)
    found.trials[3].state, found.trials[3].reason = "failed", "diverged " + EVIL
    html = sections(page(found))["Trials"]
    assert "<th>val/score so far</th><th>sample/fd</th><th>seconds</th>" in html
    rows = re.findall(r"<tr><th>(trial-\d+)</th>(.*?)</tr>", html)
    assert [name for name, _ in rows] == ["trial-0000", "trial-0002", "trial-0001", "trial-0003"]
    values = found.trials[2].values
    assert read(rows[1][1]).text == [
        "finished",
        "64,000",
        "1.02",
        "5.2",
        "12",
        values["diffusion.beta_schedule"],
        f"{values['optim.lr']:.4g}",
    ]
    assert read(rows[2][1]).text[:5] == ["stopped", "32,000", "1.01", "-", "11"]
    assert f"failed: diverged {EVIL}" in read(rows[3][1]).text


def test_each_curve_is_drawn_and_those_that_did_not_finish_are_pale_with_a_cross(tmp_path: Path):
    html = sections(page(a_sweep(tmp_path)))["Curves"]
    again = sections(page(confirmed(a_sweep(tmp_path))))["Curves"]
    assert re.findall(r'<g class="best".*?<title>(trial-\d+)', again) == ["trial-0002"]
    assert re.findall(r"<title>(trial-\d+)", again)[-1] == "trial-0002"
    groups = re.findall(r'<g class="(\w*)".*?<title>(trial-\d+), (\w+).*?</title>(.*?)</g>', html)
    assert len(groups) == 7
    assert groups[-1][:3] == ("best", "trial-0000", "finished")  # over all others
    for kind, _, state, shapes in groups:
        count = len(re.search('points="(.*?)"', shapes)[1].split())
        assert ("<path" in shapes) == (kind == "faded") == (state == "stopped") == (count == 4)
    for rung in ("16k", "32k"):
        assert rung in read(html).text
    for schedule in ("cosine", "linear", "sigmoid"):
        assert f"diffusion.beta_schedule={schedule}" in read(html).text


def test_only_asha_has_rungs(tmp_path: Path):
    html = page(a_sweep(tmp_path, text=re.sub("early.*", "early_terminate: {type: median}", SWEEP)))
    assert "Dashed" not in said(html)


def test_what_matters_is_judged_at_the_most_images_that_enough_trials_came_to(tmp_path: Path):
    found = a_sweep(tmp_path, 12)
    text = said(sections(page(found))["What matters"])
    assert "at 32,000 images, to which 12 of 12 trials came" in text
    for trial in found.trials[:9]:
        trial.curve[TOTAL] = trial.value
    assert "at 64,000 images, to which 10 of 12" in said(sections(page(found))["What matters"])


def test_what_fewer_than_half_of_the_trials_came_to_does_not_say_what_matters(tmp_path: Path):
    found = a_sweep(tmp_path, 20)
    found.trials[0].curve = dict(found.trials[1].curve)  # so nine have come to the end
    text = said(sections(page(found))["What matters"])
    assert "at 32,000 images, to which 20 of 20" in text


def test_the_parameter_that_the_figures_hang_on_matters_most(tmp_path: Path):
    found = a_sweep(tmp_path, 16)
    for trial in found.trials:
        trial.curve = dict.fromkeys(trial.curve, -math.log(trial.values["optim.lr"]))
    html = sections(page(found))["What matters"]
    assert re.findall("<dt>(.*?)</dt>", html) == ["optim.lr", "diffusion.beta_schedule"]


@pytest.mark.parametrize(("count", "words"), [(7, "it takes 8 trials"), (8, "at 32,000 images")])
def test_few_trials_say_nothing_of_what_matters(tmp_path: Path, count: int, words: str):
    assert words in said(sections(page(a_sweep(tmp_path, count)))["What matters"])


def test_trials_that_are_all_the_same_say_nothing_of_what_matters(tmp_path: Path):
    found = a_sweep(tmp_path, 12)
    for trial in found.trials:
        trial.curve = dict.fromkeys(trial.curve, 1.0)
    assert "cannot be told" in said(sections(page(found))["What matters"])


def test_the_front_joins_what_nothing_is_both_faster_and_better_than(tmp_path: Path):
    found = a_sweep(tmp_path, 10)
    seconds_fd = {0: (50, 1.0), 2: (20, 3.0), 4: (30, 4.0), 6: (40, 2.0), 8: (60, math.nan)}
    for i, (seconds, fd) in seconds_fd.items():
        found.trials[i].seconds = seconds
        found.trials[i].figures = {"sample/fd": fd}
    html = sections(page(found))["Quality against cost"]
    dots = dict(re.findall(r'<title>(trial-\d+).*?<circle cx="([\d.]+)"', html))
    line = re.search('points="(.*?)"', html)[1]
    front = ["trial-0002", "trial-0006", "trial-0000"]
    assert [pair.split(",")[0] for pair in line.split()] == [dots[name] for name in front]
    assert "trial-0008" not in dots


def test_without_sample_fd_quality_is_the_metric(tmp_path: Path):
    found = a_sweep(tmp_path)
    for trial in found.trials:
        trial.figures = {}
    parts = sections(page(found))
    assert "val/score" in read(parts["Quality against cost"]).text
    assert not any("agree" in title for title in parts)


def agreement(found: Findings) -> str:
    return said(next((html for name, html in sections(page(found)).items() if "agree" in name), ""))


@pytest.mark.parametrize(
    ("direction", "words"),
    [
        (1, "is 1.00: what the search prefers draws better"),
        (-1, "is -1.00: what the search prefers draws worse"),
    ],
)
def test_it_says_whether_the_metric_ranks_as_the_images_do(
    tmp_path: Path, direction: int, words: str
):
    found = a_sweep(tmp_path, 14)
    for trial in found.trials:
        if trial.figures:
            trial.figures = {**trial.figures, "sample/fd": 50 + direction * trial.value}
    assert words in agreement(found)


def test_trials_stand_in_the_order_of_their_images_with_both_places(tmp_path: Path):
    found = a_sweep(tmp_path, 7)
    for i, distance in ((0, 3.0), (2, 1.0), (4, 4.0), (6, 2.0)):
        found.trials[i].figures = {"sample/fd": distance}
    html = next(html for name, html in sections(page(found)).items() if "agree" in name)
    rows = re.findall(r"<tr><th>trial-000(\d)</th>(.*?)</tr>", html)
    assert [name for name, _ in rows] == ["2", "6", "0", "4"]
    assert [read(row).text[1::2] for _, row in rows] == [
        ["2", "1"],
        ["4", "2"],
        ["1", "3"],
        ["3", "4"],
    ]


def test_an_agreement_that_may_be_chance_is_called_that(tmp_path: Path):
    assert "may be chance" in agreement(a_sweep(tmp_path, 8))  # four that finished


def test_three_trials_have_no_order_to_speak_of(tmp_path: Path):
    assert agreement(a_sweep(tmp_path, 6)) == ""


def test_the_ranking_by_schedule_is_that_of_the_means(tmp_path: Path):
    found = a_sweep(tmp_path, 20)
    html = next(html for name, html in sections(page(found)).items() if "agree" in name)
    table = html.rpartition("<table>")[2]
    rows = dict(re.findall("<tr><th>(cosine|linear|sigmoid)</th>(.*?)</tr>", table))
    for schedule, row in rows.items():
        figures = [
            trial.figures["sample/fd"]
            for trial in found.trials
            if trial.figures and trial.values["diffusion.beta_schedule"] == schedule
        ]
        assert read(row).text[2] == f"{sum(figures) / len(figures):.4g}"
    assert [read(row).text[3] for row in rows.values()] == [str(i + 1) for i in range(len(rows))]


def test_profiles_are_drawn_for_all_that_have_one(tmp_path: Path):
    found = a_sweep(tmp_path)
    found.home.remove("trial-0004/profile.csv")
    html = sections(page(found))["Error by noise level"]
    names = re.findall(r"<title>(trial-\d+)", html)
    assert sorted(names) == [f"trial-{i:04d}" for i in (0, 2, 6)]
    assert all(len(line.split()) == 3 for line in re.findall('points="(.*?)"', html))


def test_without_names_among_the_values_each_profile_has_a_colour(tmp_path: Path):
    text = re.sub("  diffusion.beta_schedule.*\n", "", SWEEP)
    html = sections(page(a_sweep(tmp_path, text=text)))["Error by noise level"]
    assert len(set(re.findall(r"<g class=\"\w*\" style=\"(.*?)\"", html))) == 4
    assert "trial-0000" in read(html).text


def test_the_newest_pictures_of_the_six_best_stand_side_by_side(tmp_path: Path):
    found = a_sweep(tmp_path, 16)
    found.home.remove("trial-0002/samples")
    pictures = read(sections(page(found))["Images"]).pictures
    names = [f"trial-{i:04d}" for i in (0, 4, 6, 8, 10, 12)]
    assert [alt for _, alt in pictures] == [f"drawn by {name}" for name in names]
    for name, (content, _) in zip(names, pictures, strict=True):
        assert content == (found.home / name).read("samples/000000064000.png")


def test_the_page_of_64_trials_with_large_pictures_stays_below_a_megabyte(tmp_path: Path):
    found = a_sweep(tmp_path, 64)
    large = sheet(64)
    for trial in found.trials:
        (found.home / trial.name).write("samples/000000064000.png", large)
    html = page(found)
    assert len(html.encode()) < 1_000_000
    assert read(html).kinds == ["webp"] * 6
    assert "http" not in html.replace("<!doctype html>", "")


def test_cost_tells_the_confirmation_from_the_search(tmp_path: Path):
    found = confirmed(a_sweep(tmp_path, 4))
    resources = Resources(num_workers=2, cpus_per_worker=4, gpus_per_worker=1)
    sweep = found.plan.sweep.model_copy(update={"resources": resources})
    found = replace(found, plan=replace(found.plan, sweep=sweep))
    for trial in found.trials:
        trial.seconds = 900.0
    html = sections(page(found))["Cost"]
    rows = {name: read(row).text for name, row in re.findall("<tr><th>(.+?)</th>(.*?)</tr>", html)}
    assert rows["search"] == ["4", "192,000", "1:00:00", "8.00", "2.00"]
    assert rows["confirmation"] == ["4", "256,000", "1:00:00", "8.00", "2.00"]
    assert rows["together"] == ["8", "448,000", "2:00:00", "16.00", "4.00"]
    assert "64,000 images, 25% of what" in said(html)


def test_the_command_trains_the_very_same_configuration(tmp_path: Path):
    found = a_sweep(tmp_path)
    trial = found.trials[3]
    python, dash_m, module, *words = shlex.split(reproduction(found, trial))
    assert [python, dash_m, module] == ["python", "-m", "ray_diffusion.train"]
    again, meant = config.load(words), found.plan.trial(trial.values)
    assert config.override(again, {"run.name": meant.run.name}) == meant
    assert again.model.channels == 24
    assert again.optim.lr == trial.values["optim.lr"]
    changed = {word.partition("=")[0] for word in words[1:]}
    own, resources = {"run.seed", "run.name", "run.storage_url"}, "cluster."
    assert own <= {key for key in changed if not key.startswith(resources)} <= own | {*trial.values}


def test_the_commands_are_all_there(tmp_path: Path):
    found = confirmed(a_sweep(tmp_path))
    commands = read(sections(page(found))["Commands"]).text
    assert reproduction(found, found.trials[2]) in commands
    assert found.command in commands
    run = f"{found.home.url}/trial-0002"
    assert f"python -m ray_diffusion.sample {run} num_images=64" in commands
    assert f"python -m ray_diffusion.evaluate {run}" in commands


def of_autoencoders(found: Findings) -> Findings:
    """The same sweep of models that give images back and draw none."""
    base = config.override(found.plan.base, {"model.kind": "autoencoder"})
    for trial in found.trials:
        trial.figures = {"val/psnr": 20.0} if trial.figures else {}
    return replace(found, plan=replace(found.plan, base=base))


def test_of_autoencoders_the_commands_encode_and_nothing_tells_of_drawn_images(tmp_path: Path):
    found = of_autoencoders(a_sweep(tmp_path))
    html = page(found)
    commands = read(sections(html)["Commands"]).text
    run = f"{found.home.url}/{found.winner.name}"
    assert (
        "python -m ray_diffusion.encode source=builtin:digits image_size=8 "
        f"codec={run} out=datasets/latents"
    ) in commands
    assert not any("ray_diffusion.sample" in line or ".evaluate" in line for line in commands)
    assert "sample/fd" not in said(html)
    trials = sections(html)["Trials"]
    row = re.search("<th>trial-0000</th>(.*?)</tr>", trials)[1]
    assert read(row).text[:4] == ["finished", "64,000", "1", "10"]
    assert "<th>val/score so far</th><th>seconds</th>" in trials


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_sweep_of_which_nothing_has_finished_has_a_page_too(tmp_path: Path, count: int):
    found = a_sweep(tmp_path, count)
    for trial in found.trials:
        trial.state, trial.figures, trial.curve = "running", {}, {}
    text = said(page(found))
    assert "No trial has finished." in text
    assert found.command in text


def test_figures_that_are_no_numbers_break_nothing(tmp_path: Path):
    found = a_sweep(tmp_path)
    for i, trial in enumerate(found.trials):
        trial.curve = {seen: (math.nan, math.inf)[i % 2] for seen in trial.curve}
        trial.figures = dict.fromkeys(trial.figures, math.nan)
    html = page(found)
    assert read(html)
    drawings = " ".join(re.findall("<svg.*?</svg>", html, re.DOTALL))
    assert not re.search(r'="[^"]*\b(nan|inf)\b', drawings)


def test_words_of_the_user_are_text_and_nothing_else(tmp_path: Path):
    found = a_sweep(tmp_path)
    for trial in found.trials:
        trial.values = {**trial.values, "data.dataset_url": EVIL + trial.name}
    shown = Findings(found.plan, found.home, found.trials, None, 1.0, EVIL)
    html = page(Findings(**{**vars(shown), "command": f"{EVIL} {found.command}"}))
    assert read(html)  # refuses scripts
    assert EVIL in said(html)


def test_the_same_findings_give_the_same_bytes(tmp_path: Path):
    found = a_sweep(tmp_path)
    shuffled = random.Random(0).sample(list(found.trials), len(found.trials))
    again = Findings(found.plan, found.home, shuffled, None, found.seconds, found.command)
    assert page(found) == page(found) == page(again)
