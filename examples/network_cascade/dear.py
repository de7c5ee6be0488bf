"""Answers the flows that the cheap model asks about, many at a time. Usage: python dear.py [ADDRESS]."""

import sys

from capture import unpack
from models import sequence_features, train_dear

from edgeserve import BatchModel
from edgeserve.gates import msgpack_out

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker


def classify(batch):
    """For each flow id, whether the model is satisfied, which the last one is, and its answer.

    The batch has (data, signal) for each flow id. The cheap model asks with an empty signal.
    """
    classes = model.predict([sequence_features(*flow) for flow, _ in batch.values()])
    answers = [{"class": str(name), "by": "dear"} for name in classes]
    return dict.fromkeys(batch, True), dict(zip(batch, answers, strict=True))


if __name__ == "__main__":
    with BatchModel(
        classify,
        ADDRESS,
        "flows",
        "verdicts",
        topic_in_signal="questions",
        decode=unpack,  # of the flows that are asked about only; a gate would unpack them all
        gate_out_destination=msgpack_out,
        max_time_diff_ms=60_000,  # the cheap model may be away for a minute
        batch_timeout_ms=50,
        model_id="dear",
    ) as operator:
        model = train_dear()  # when it is open: what the cheap model has done with is kept for it from then on
        print("waits to be asked", flush=True)
        operator.run()
