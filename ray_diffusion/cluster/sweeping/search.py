"""A sweep from its file to its winner: the search, the confirmation, the report."""

from dataclasses import replace
from typing import Any

import ray

from ray_diffusion.cluster import launch, lease, summary
from ray_diffusion.cluster.environment import forwarded, tracking_access
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.group import lost_cluster_explained, on_this_node
from ray_diffusion.cluster.hub import Feed, port_of
from ray_diffusion.cluster.notice import stop_on_signals
from ray_diffusion.cluster.progress import duration
from ray_diffusion.cluster.record import finish, ship
from ray_diffusion.cluster.sweeping.confirm import DECIDES
from ray_diffusion.cluster.sweeping.execution import execute
from ray_diffusion.cluster.sweeping.findings import TRAINED, Findings
from ray_diffusion.cluster.sweeping.judge import Judge, News
from ray_diffusion.cluster.sweeping.metering import SweepMeter, saved_share
from ray_diffusion.cluster.sweeping.plan import Sweeping, said, tasks
from ray_diffusion.cluster.sweeping.report import page
from ray_diffusion.cluster.sweeping.table import REPORT, Screen, block
from ray_diffusion.cluster.sweeping.trial import Search, prepared
from ray_diffusion.errors import (
    BudgetSpent,
    ConfigError,
    Preempted,
    RayDiffusionError,
    TrackingError,
    WorkersFailed,
    warn,
)
from ray_diffusion.tracking.identity import SWEEP_KEY_TAG, SWEEP_TAG
from ray_diffusion.tracking.sweep_plots import plot_quality, plot_rungs
from ray_diffusion.tracking.tracker import Tracker

FILE = "sweep.yaml"
STATUSES = {type(None): "FINISHED", WorkersFailed: "FAILED"}  # in MLflow's words
IDLE_S = 600.0  # without a word from any trial, and the user is told
PATIENCE_S = 10.0  # with an MLflow that was away, for each trial


def search(sweeping: Sweeping) -> Findings:
    """Run a sweep on the connected cluster, from wherever it was left, and write its report.

    Args:
        sweeping: The sweep.

    Raises:
        UsageError: If another launch runs the sweep, its directory holds another one, or no trial
            fits into the cluster.
        BudgetSpent: When its budget is; the report is written all the same, its last lines are
            the error's note.
        Preempted: Likewise, after Ctrl-C.
        WorkersFailed: Likewise, if trials could not be trained to their end.
    """
    base = sweeping.base
    have = {"GPU": 0} | ray.cluster_resources()  # type: ignore[no-untyped-call]
    if short := sweeping.plan.sweep.resources.too_large(have):
        raise ConfigError([f"resources: {problem}" for problem in short])
    with (
        lease.held(base.run, launch.end_at_once),
        launch.recorded(base) as (_, tracker, files, _),
    ):
        files.write(FILE, sweeping.text)
        course = _Course(sweeping)
        try:
            with stop_on_signals(course.stop), lost_cluster_explained():
                course.run()
        except BaseException:
            tracker.finish("KILLED")
            raise
        findings = course.findings()
        failure = course.failure(findings)
        _write(findings, files, tracker)
        course.close()
        shipped = tracker.finish(STATUSES.get(type(failure), "KILLED"))
        if not (shipped and _all_shipped(findings)):
            warn(f"not all is in MLflow yet; python -m ray_diffusion.sync {base.run.url}")
    if failure is not None:
        failure.add_note(block(findings))
        raise failure
    return findings


class _Course:
    """What happens in one launch of a sweep."""

    def __init__(self, sweeping: Sweeping) -> None:
        plan, base = sweeping.plan, sweeping.base
        environment = forwarded(plan.base.cluster.forward_env) | tracking_access()
        self._judge: Any = on_this_node(Judge, plan, base.run.url, said(plan), environment)
        self._sweeping, self._plan = sweeping, plan
        of_sweep = {SWEEP_TAG: plan.sweep.name, SWEEP_KEY_TAG: base.identity.run_key}
        made_with = sweeping.made_with
        self._search = Search(
            plan=plan,
            home=base.run.url,
            judge=self._judge,
            tasks=(),
            made_with=replace(made_with, tags={**made_with.tags, **of_sweep}),
            environment=environment,
        )
        self._unfinished: dict[str, str] = {}
        self._idle = 0  # how often IDLE_S has gone by
        self._news: News = ray.get(self._judge.read.remote())
        self._screen = Screen(self._news.trials.values())
        self._meter = SweepMeter()
        self._feed = Feed(
            plan.sweep.name, port_of(base.config.tracking.metrics_port), self._screen.warn
        )

    def run(self) -> None:
        """Search, then confirm, unless the sweep is to stop."""
        if self._plan.trains_once and not self._news.stopping:
            trained = prepared(self._search, TRAINED, {})
            if trained.finished is None:
                launch.fit(trained)
        todo = tasks(self._plan, self._news.trials)
        while todo and not self._news.stopping:
            self._unfinished = execute(replace(self._search, tasks=todo), self._show)
            left = tasks(self._plan, self._news.trials)
            if {task.name for task in left} & {task.name for task in todo}:
                break  # they will not come to an end in this launch
            todo = left
        self._screen.clear()
        self._feed.finish()

    def stop(self) -> None:
        """Have all trials save and stop."""
        self._judge.request_stop.remote()
        self._screen.clear()

    def close(self) -> None:
        """Note that the report is written."""
        ray.get(self._judge.close.remote())

    def findings(self) -> Findings:
        """What was found so far."""
        return self._sweeping.findings(self._news.trials, self._news.seconds)

    def failure(self, findings: Findings) -> RayDiffusionError | None:
        """Why the sweep did not come to its end, if it did not."""
        if findings.left and self._news.spent:
            return BudgetSpent("the budget is spent; a larger one continues the sweep")
        if self._unfinished and not self._news.stopping:
            name, reason = next(iter(self._unfinished.items()))
            return WorkersFailed(
                f"{len(self._unfinished)} trials did not come to an end; {name}: {reason}; "
                "the same command tries them again"
            )
        if findings.left:
            return Preempted("stopped; the same command continues the sweep")
        if findings.winner is None:
            return WorkersFailed("no trial has finished with a figure")
        return None

    def _show(self, news: News) -> None:
        self._news = news
        for warning in news.warnings:
            self._screen.warn(warning)
        idle, before = int(news.idle_s / IDLE_S), self._idle
        self._idle = idle
        if idle > before:
            self._screen.warn(
                f"no trial has told anything for {duration(news.idle_s)}; "
                "`ray status` says what the cluster waits for"
            )
        findings = self.findings()
        self._screen.show(findings, news.facts)
        self._feed.report(self._meter.report(findings, news.facts))


def _write(findings: Findings, files: RunFiles, tracker: Tracker) -> None:
    """Write the report, and what of it MLflow's tables show."""
    files.write(REPORT, page(findings))
    best, sweep, trials = findings.winner, findings.plan.sweep, findings.chosen
    name = best.name if best else None
    curves = {trial.name: trial.curve for trial in trials}
    stopped = [trial.name for trial in trials if trial.state == "stopped"]
    points = {t.name: (t.seconds, t.figures[DECIDES]) for t in trials if DECIDES in t.figures}
    for file, picture in {
        "curves.png": plot_rungs(
            sweep.name, sweep.metric.name, curves, stopped, findings.rungs, name
        ),
        "quality.png": plot_quality(sweep.name, DECIDES, points, name),
    }.items():
        if picture:
            files.write(file, picture)
    if best is not None:
        figures = {sweep.metric.name: best.curve[best.images_seen], **best.figures}
        own = {"sweep/images_saved_ratio": saved_share(findings), "sweep/trials": len(trials)}
        tracker.log(findings.images_trained, figures | own)


def _all_shipped(findings: Findings) -> bool:
    """Ship what an outage of MLflow has left of trials that will not be launched any more."""
    for trial in findings.trials:
        run = findings.home / trial.name
        told, killed = summary.read(run), run.read(lease.FILE) is not None
        try:
            if killed:  # after the judge had said that it is over
                finish(run, "KILLED", PATIENCE_S)
            if killed or (told is not None and not told["shipped"]):
                ship(run, patience_s=PATIENCE_S)
        except TrackingError:
            return False
    return True
