"""Where examples come from: any stream, scripts, cameras, videos and files of rows."""

from edgeserve.data_source.captured import CameraSource, SimulateTimeSeries, SimulateVideoWithTimestamps
from edgeserve.data_source.code import CodeSource
from edgeserve.data_source.stream import DataSource

__all__ = ["CameraSource", "CodeSource", "DataSource", "SimulateTimeSeries", "SimulateVideoWithTimestamps"]
