"""What a training does to its spool, in any order."""

from hypothesis import strategies as st

from ray_diffusion.tracking.spool import Spool

ACTIONS = (
    st.tuples(st.just("train"), st.integers(1, 6)),
    st.tuples(st.just("ship"), st.integers(1, 5)),
    st.tuples(st.just("ship, but die before the ack"), st.integers(1, 5)),
    st.tuples(st.just("checkpoint"), st.just(0)),
)


def train(spool: Spool, after: int, until: int) -> None:
    for step in range(after + 1, until + 1):
        spool.log(step, {"train/loss": step / 2})
        if step % 3 == 0:
            spool.log(step, {"val/loss": step / 4})
