"""Reports attacks, and in the end how good the verdicts were. Usage: python act.py [ADDRESS]."""

import sys

from capture import ATTACKS, LIVE, capture, flow_id

from edgeserve import Materialize
from edgeserve.gates import msgpack_in

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None  # None: the local broker

flows = {flow_id(flow): flow for flow in capture(LIVE)}  # to know what was right, and who it was
verdicts = {}


def report(pair):
    key, verdict = pair
    verdicts[key] = verdict
    if verdict["class"] in ATTACKS:
        flow = flows[key]
        print(f"{flow.client} -> {flow.server}:{flow.server_port} {verdict['class']} ({verdict['by']})", flush=True)
    if len(verdicts) == len(flows):
        sink.stop()


def score():
    count = max(1, len(verdicts))
    right = sum(verdict["class"] == flows[key].label for key, verdict in verdicts.items())
    dear = sum(verdict["by"] == "dear" for verdict in verdicts.values())
    print(f"{len(verdicts)} flows: {len(verdicts) - dear} answered by cheap, {dear} by dear")
    print(f"{100 * right / count:.1f} % right, {100 * dear / count:.1f} % escalated")


if __name__ == "__main__":
    sink = Materialize(report, ADDRESS, gate=msgpack_in, topic="verdicts", sink_id="screen", with_flow_id=True)
    print(f"waits for the verdicts of {len(flows)} flows", flush=True)
    sink.run()
    score()
