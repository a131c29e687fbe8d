"""Multi-object tracking: MOTA, a SORT-like tracker, and detection of objects in scans by clusters and a classifier."""

from tutelage.auditing.tracking.detector import detect, track_scans
from tutelage.auditing.tracking.mota import MotaResult, TrackFrame, mota, tracking_scores
from tutelage.auditing.tracking.sort import Tracker

__all__ = ["MotaResult", "TrackFrame", "Tracker", "detect", "mota", "track_scans", "tracking_scores"]
