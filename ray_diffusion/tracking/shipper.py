"""The thread that carries a spool to MLflow.

It alone waits for the tracking server. Whatever the server does, what has not arrived stays in the
spool, the thread tries again after a pause that grows to `LONGEST_PAUSE_S`, and it says so once for
each outage.
"""

import logging
import threading

from ray_diffusion.tracking.client import brief, connect, is_missing
from ray_diffusion.tracking.delivery import Delivery
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.run import Run, find_or_create
from ray_diffusion.tracking.spool import Spool

PERIOD_S = 1.0
"""How often to look for news: whoever watches the run's page does not see a shorter one."""

LONGEST_PAUSE_S = 15.0
"""Between tries in a long outage: soon enough after it, and no burden during it."""

CLOSING_PAUSE_S = 0.5
"""Between tries while `Shipper.close` waits, as its deadline is short."""

logger = logging.getLogger(__name__)


class Shipper:
    """Ships a spool from a thread of its own; making one starts it.

    Args:
        spool: What to ship. It stays its maker's to close, after `close` here.
        identity: The run to ship to; found or made at the first try that MLflow answers.
        run_id: The run's id, where an earlier launch has written it down.
        period_s: Seconds between looks at the spool.

    Attributes:
        run: The run, once it is found.
        errors: Tries that failed.
    """

    def __init__(
        self,
        spool: Spool,
        identity: RunIdentity,
        run_id: str | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        self.run: Run | None = None
        self.errors = 0
        self._spool = spool
        self._identity = identity
        self._known_id = run_id
        self._period_s = self._pause_s = period_s
        self._delivery: Delivery | None = None
        self._skipped_before = 0  # by deliveries to a run that is gone
        self._in_outage = False
        self._closing = threading.Event()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-shipper", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id; None until it is known."""
        return self.run.run_id if self.run else self._known_id

    @property
    def skipped(self) -> int:
        """Events that MLflow will never take."""
        return self._skipped_before + (self._delivery.skipped if self._delivery else 0)

    def close(self, deadline_s: float = 10.0) -> bool:
        """Ship what is left, within a deadline.

        Args:
            deadline_s: The longest wait, in seconds.

        Returns:
            Whether everything arrived. The rest stays in the spool for the next one to open it.
        """
        self._spool.sync()
        self._closing.set()
        self._thread.join(deadline_s)
        self._give_up.set()
        return self._spool.drained

    def _work(self) -> None:
        while not self._give_up.is_set():
            closing = self._closing.is_set()  # before the try: one begun later sees every event
            if not (closing and self._spool.drained):
                self._try()
            if not closing:
                self._closing.wait(self._pause_s)
            elif self._spool.drained:
                return
            else:
                self._give_up.wait(CLOSING_PAUSE_S)

    def _try(self) -> None:
        """Ship all there is, unless MLflow or the disk is in the way."""
        try:
            if self._delivery is None:
                self.run = find_or_create(self._identity, run_id=self._known_id)
                self._spool.arrived(self.run.steps)
                self._delivery = Delivery(connect(self._identity.uri), self.run.run_id)
            for batch in self._spool.unshipped():
                if self._give_up.is_set():
                    return
                if (new := batch.beyond(self._spool.acked_marks)).events:
                    self._delivery.send(new)
                self._spool.ack(batch)
        # Everything: MLflow raises its own errors, requests', SQLAlchemy's and the drivers' of
        # both, and no fault of tracking may end this thread or reach training.
        except Exception as error:
            self._note_failure(error)
        else:
            self._note_success()

    def _note_failure(self, error: Exception) -> None:
        self.errors += 1
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if is_missing(error):  # the run is gone for good: find it by its key, or make it anew
            self._skipped_before, self._delivery = self.skipped, None
        if not self._in_outage and not self._give_up.is_set():
            self._in_outage = True
            kept = self._spool.path
            logger.warning("tracking waits, nothing is lost (kept in %s): %s", kept, brief(error))

    def _note_success(self) -> None:
        self._pause_s = self._period_s
        if self._in_outage:
            self._in_outage = False
            logger.warning("MLflow at %s answers again", self._identity.shown_uri)
