"""Predictions from live data on many machines.

`DataSource` sends what a sensor sees, `Compute` joins streams by the time of their capture and runs a model on what
belongs together, `Materialize` uses the predictions. Apache Pulsar, or the local broker, carries the messages.
"""

from edgeserve._core.ledger import Stats
from edgeserve._core.step import Fate
from edgeserve._run import run
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.compute import Compute
from edgeserve.data_source import CameraSource, CodeSource, DataSource, SimulateTimeSeries, SimulateVideoWithTimestamps
from edgeserve.errors import (
    BrokerError,
    BrokerUnreachable,
    DeliveryError,
    EdgeServeError,
    MalformedMessage,
    MissingExtra,
    PayloadTooLarge,
    UsageError,
)
from edgeserve.materialize import Deduplicate, Materialize
from edgeserve.message_format import BaseBytesCodec, GraphCodec, NetworkCodec
from edgeserve.window import Window

__version__ = "0.1.0"

__all__ = [
    "BaseBytesCodec",
    "BrokerError",
    "BrokerUnreachable",
    "CameraSource",
    "CodeSource",
    "Compute",
    "DataSource",
    "Deduplicate",
    "DeliveryError",
    "EdgeServeError",
    "Fate",
    "GraphCodec",
    "LocalAddress",
    "MalformedMessage",
    "Materialize",
    "MissingExtra",
    "NetworkCodec",
    "PayloadTooLarge",
    "PulsarAddress",
    "SimulateTimeSeries",
    "SimulateVideoWithTimestamps",
    "Stats",
    "UsageError",
    "Window",
    "run",
]
