"""Streams of unlabelled inputs that drift, and how well a model that adapts to them answers, batch by batch."""

from tutelage.auditing.streams.report import DomainRow, StreamReport
from tutelage.auditing.streams.run import Adapting, run_stream
from tutelage.auditing.streams.stream import GRADUAL, Domain, Segment, Stream

__all__ = ["GRADUAL", "Adapting", "Domain", "DomainRow", "Segment", "Stream", "StreamReport", "run_stream"]
