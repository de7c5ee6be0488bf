"""Predictions from live data on many machines.

`DataSource` sends what a sensor sees, `Compute` joins streams by the time of their capture and runs a model on what
belongs together, `Materialize` uses the predictions. Apache Pulsar, or the local broker, carries the messages.

A name is loaded when it is first asked for, so that a sensor does not pay for what only a prediction node needs.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from edgeserve._version import __version__ as __version__

if TYPE_CHECKING:
    from edgeserve._core.ledger import Stats as Stats
    from edgeserve._core.step import Fate as Fate
    from edgeserve._log.folder import LogFolder as LogFolder
    from edgeserve._run import run as run
    from edgeserve.address import LocalAddress as LocalAddress
    from edgeserve.address import PulsarAddress as PulsarAddress
    from edgeserve.batch_compute import BatchCompute as BatchCompute
    from edgeserve.batch_model import BatchModel as BatchModel
    from edgeserve.compute import Compute as Compute
    from edgeserve.data_source import CameraSource as CameraSource
    from edgeserve.data_source import CodeSource as CodeSource
    from edgeserve.data_source import DataSource as DataSource
    from edgeserve.data_source import SimulateTimeSeries as SimulateTimeSeries
    from edgeserve.data_source import SimulateVideoWithTimestamps as SimulateVideoWithTimestamps
    from edgeserve.errors import BrokerError as BrokerError
    from edgeserve.errors import BrokerUnreachable as BrokerUnreachable
    from edgeserve.errors import DeliveryError as DeliveryError
    from edgeserve.errors import EdgeServeError as EdgeServeError
    from edgeserve.errors import MalformedMessage as MalformedMessage
    from edgeserve.errors import MissingExtra as MissingExtra
    from edgeserve.errors import PayloadNotStored as PayloadNotStored
    from edgeserve.errors import PayloadTooLarge as PayloadTooLarge
    from edgeserve.errors import PayloadUnavailable as PayloadUnavailable
    from edgeserve.errors import ScriptFailed as ScriptFailed
    from edgeserve.errors import UsageError as UsageError
    from edgeserve.materialize import Deduplicate as Deduplicate
    from edgeserve.materialize import Materialize as Materialize
    from edgeserve.message_format import BaseBytesCodec as BaseBytesCodec
    from edgeserve.message_format import GraphCodec as GraphCodec
    from edgeserve.message_format import NetworkCodec as NetworkCodec
    from edgeserve.model import Model as Model
    from edgeserve.window import Window as Window
    from edgeserve.worker import ScriptResult as ScriptResult
    from edgeserve.worker import Worker as Worker

# The same names as above, by the module that each comes from.
_NAMES = {
    "_core.ledger": ("Stats",),
    "_core.step": ("Fate",),
    "_log.folder": ("LogFolder",),
    "_run": ("run",),
    "address": ("LocalAddress", "PulsarAddress"),
    "batch_compute": ("BatchCompute",),
    "batch_model": ("BatchModel",),
    "compute": ("Compute",),
    "data_source": ("CameraSource", "CodeSource", "DataSource", "SimulateTimeSeries", "SimulateVideoWithTimestamps"),
    "errors": (
        "BrokerError",
        "BrokerUnreachable",
        "DeliveryError",
        "EdgeServeError",
        "MalformedMessage",
        "MissingExtra",
        "PayloadNotStored",
        "PayloadTooLarge",
        "PayloadUnavailable",
        "ScriptFailed",
        "UsageError",
    ),
    "materialize": ("Deduplicate", "Materialize"),
    "message_format": ("BaseBytesCodec", "GraphCodec", "NetworkCodec"),
    "model": ("Model",),
    "window": ("Window",),
    "worker": ("ScriptResult", "Worker"),
}

_MODULES = (
    "address",
    "batch_compute",
    "batch_model",
    "cascade",
    "compute",
    "data_source",
    "errors",
    "gates",
    "materialize",
    "message_format",
    "metrics",
    "model",
    "replay",
    "routing",
    "sources",
    "testing",
    "util",
    "window",
    "worker",
)

__all__ = [
    "BaseBytesCodec",
    "BatchCompute",
    "BatchModel",
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
    "LogFolder",
    "MalformedMessage",
    "Materialize",
    "MissingExtra",
    "Model",
    "NetworkCodec",
    "PayloadNotStored",
    "PayloadTooLarge",
    "PayloadUnavailable",
    "PulsarAddress",
    "ScriptFailed",
    "ScriptResult",
    "SimulateTimeSeries",
    "SimulateVideoWithTimestamps",
    "Stats",
    "UsageError",
    "Window",
    "Worker",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"edgeserve.{name}")
    for module, names in _NAMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"edgeserve.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'edgeserve' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
