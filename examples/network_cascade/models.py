"""The two models of the cascade: what they look at, and how they learn it. They learn anew whenever a script starts."""

import numpy as np
from capture import ACK, FIN, LABELLED, PACKETS, PSH, RST, SYN, TRAINING, capture
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from edgeserve.cascade import choose_threshold

LOSS = 0.01  # how much less accurate than the dear model the cascade may be, on the labelled part


def header_features(protocol, port, packets):
    """What the cheap model looks at, the same few numbers however long the flow is.

    Protocol, port, the first packet, the first one that came back, and how many packets there were.
    """
    size, direction, _, flags = packets.T
    back = int(np.argmax(direction < 0))  # 0, the first packet again, if none came back
    return [protocol, port, size[0], flags[0], size[back], flags[back], len(packets)]


def sequence_features(protocol, port, packets):
    """What the dear model looks at: the header features, sums over the packets, and each packet by itself."""
    size, direction, gap_us, flags = packets.T
    features = header_features(protocol, port, packets)
    for way in (1, -1):
        sizes, gaps = size[direction == way], np.log1p(gap_us[direction == way])
        features += [len(sizes), sizes.sum()]
        features += [each(values) if len(values) else 0 for values in (sizes, gaps) for each in (np.mean, np.std)]
    features += [np.count_nonzero(flags & flag) for flag in (FIN, SYN, RST, PSH, ACK)]
    each_packet = np.zeros((PACKETS, 3))
    each_packet[: len(packets)] = np.column_stack([size * direction, np.log1p(gap_us), flags])
    return [*features, *each_packet.ravel()]


def train_cheap():
    """A small decision tree. How sure it is of an answer is the share of that class in the leaf."""
    tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=10, random_state=0)
    return _trained(tree, header_features)


def train_dear():
    """A random forest of 100 trees. One run on many flows costs little more than one run on one flow."""
    return _trained(RandomForestClassifier(n_estimators=100, random_state=0), sequence_features)


def choose(cheap, dear):
    """How sure the cheap model must be, chosen on flows that neither model has learnt from."""
    flows = capture(LABELLED)
    labels = np.array([flow.label for flow in flows])
    shares = cheap.predict_proba(_table(flows, header_features))
    dear_answers = dear.predict(_table(flows, sequence_features))
    return choose_threshold(
        labels,
        answers=cheap.classes_[shares.argmax(axis=1)],
        confidences=shares.max(axis=1),
        dear_answers=dear_answers,
        cost=0,
        dear_cost=1,  # so that the mean cost is the share that is escalated
        accuracy=np.mean(dear_answers == labels) - LOSS,
    )


def _trained(model, features):
    flows = capture(TRAINING, 3000)
    return model.fit(_table(flows, features), [flow.label for flow in flows])


def _table(flows, features):
    return [features(flow.protocol, flow.server_port, flow.packets) for flow in flows]
