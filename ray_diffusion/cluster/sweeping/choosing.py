"""Which values the n-th trial of a sweep gets, by the sweep's method."""

import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from ray_diffusion.cluster.sweeping.journal import Trial, trial_name
from ray_diffusion.config.space import axes
from ray_diffusion.config.sweep import Plan
from ray_diffusion.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import optuna

MOST_TRIES: Final = 100
"""Proposals in a row that break a rule between keys."""


class Chooser(Protocol):
    """Chooses the values of trials."""

    def values(self, number: int) -> dict[str, Any]:
        """What the number-th trial changes in the base, by dotted key."""

    def tell(self, trial: Trial) -> None:
        """A trial that was chosen is over."""


class Listed:
    """Of a grid or a random search, whose trials are known from the start.

    Args:
        plan: The sweep.
        trials: Those that were chosen before.
    """

    def __init__(self, plan: Plan, trials: Iterable[Trial]) -> None:
        self._plan = plan

    def values(self, number: int) -> dict[str, Any]:
        """See ``Plan.values``."""
        return self._plan.values(number)

    def tell(self, trial: Trial) -> None:
        """What became of a trial changes no other."""


class Bayes:
    """Optuna's tree-structured Parzen estimator.

    Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization". A proposal is a function
    of the sweep's seed, the trial's number and what is known of all other trials: nothing but the
    journal is needed to go on. Trials that still run count as poor, so that those beside them look
    elsewhere; stopped ones count by how far they came, and then by their figure there.

    Args:
        plan: The sweep; its method needs optuna.
        trials: Those that were chosen before.
    """

    def __init__(self, plan: Plan, trials: Iterable[Trial]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._known = {trial.name: trial for trial in trials}
        self._axes = axes(plan.space)
        self._distributions = {axis: _distribution(plan, keys) for axis, keys in self._axes.items()}

    def values(self, number: int) -> dict[str, Any]:
        """What the number-th trial changes in the base, by dotted key.

        Raises:
            UsageError: If proposals break a rule between keys again and again.
        """
        import optuna

        seed = random.Random(f"{self._plan.sweep.seed} {number}").getrandbits(32)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.add_trials([self._told(trial) for trial in self._known.values()])
        problem = ""
        for _ in range(MOST_TRIES):
            proposal = study.ask(self._distributions)
            values = self._from_optuna(proposal.params)
            try:
                self._plan.trial(values)
            except ConfigError as error:
                problem = error.problems[0]
                study.tell(proposal, state=optuna.trial.TrialState.FAIL)
            else:
                self.tell(Trial(trial_name(number), values))
                return values
        raise UsageError(f"{MOST_TRIES} proposals in a row break a rule between keys: {problem}")

    def tell(self, trial: Trial) -> None:
        """A trial that was chosen is over."""
        self._known[trial.name] = trial

    def _told(self, trial: Trial) -> "optuna.trial.FrozenTrial":
        import optuna

        states = optuna.trial.TrialState
        value = math.nan if trial.value is None else trial.value
        state = {
            "running": states.RUNNING,
            "stopped": states.PRUNED,
            "finished": states.FAIL if math.isnan(value) else states.COMPLETE,
            "failed": states.FAIL,
        }[trial.state]
        return optuna.trial.create_trial(
            state=state,
            value=value if state is states.COMPLETE else None,
            params=self._to_optuna(trial.values),
            distributions=self._distributions,
            intermediate_values=trial.curve,
        )

    def _from_optuna(self, params: Mapping[str, Any]) -> dict[str, Any]:
        space = self._plan.space
        return {
            key: params[axis] if space[key].values is None else space[key].samples[params[axis]]
            for axis, keys in self._axes.items()
            for key in keys
        }

    def _to_optuna(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            axis: self._place([values[key] for key in keys], keys)
            for axis, keys in self._axes.items()
        }

    def _place(self, values: list[Any], keys: list[str]) -> Any:
        """Where values that vary together stand in their lists; of a range, the value itself."""
        if self._plan.space[keys[0]].values is None:
            return values[0]
        lists = zip(*(self._plan.space[key].samples for key in keys), strict=True)
        return [list(one) for one in lists].index(values)


def _distribution(plan: Plan, keys: list[str]) -> "optuna.distributions.BaseDistribution":
    """What optuna draws from: of lists the place, as it takes numbers and words alone."""
    from optuna import distributions

    parameter = plan.space[keys[0]]
    if parameter.values is not None:
        return distributions.CategoricalDistribution(range(len(parameter.values)))
    low, high = parameter.ends
    if parameter.distribution == "int_uniform":
        return distributions.IntDistribution(int(low), int(high))
    return distributions.FloatDistribution(low, high, log=parameter.distribution == "log_uniform")


CHOOSERS: Final[Mapping[str, Callable[[Plan, Iterable[Trial]], Chooser]]] = {
    "grid": Listed,
    "random": Listed,
    "bayes": Bayes,
}
"""By the name in a sweep's file; of the sweep, and the trials that it has chosen before."""
