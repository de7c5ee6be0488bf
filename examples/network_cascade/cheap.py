"""Answers the flows that a small model is sure of, at the sensor. Usage: python cheap.py [ADDRESS]."""

import sys

from capture import unpack
from models import choose, header_features, train_cheap, train_dear

from edgeserve import Model
from edgeserve.cascade import sure_enough
from edgeserve.gates import msgpack_out

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker


def classify(flow):
    """The answer, and how sure the model is of it."""
    (shares,) = model.predict_proba([header_features(*flow)])
    best = shares.argmax()
    return {"class": str(model.classes_[best]), "by": "cheap"}, shares[best]


if __name__ == "__main__":
    model = train_cheap()
    chosen = choose(model, train_dear())
    with Model(
        sure_enough(classify, chosen.threshold),
        ADDRESS,
        "flows",
        "verdicts",
        topic_out_signal="questions",
        decode=unpack,
        gate_out_destination=msgpack_out,
        model_id="cheap",
    ) as operator:
        said = f"answers what it is {chosen.threshold:.2f} sure of, asks about {100 * chosen.escalated:.0f} % or so"
        print(said, flush=True)
        operator.run()
