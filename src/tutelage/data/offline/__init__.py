"""Logged decisions for offline reinforcement learning: the set itself, and readers of Minari, D4RL and .npz files."""

from tutelage.data.offline.files import read_offline, write_minari, write_npz
from tutelage.data.offline.transitions import OfflineDataset

__all__ = ["OfflineDataset", "read_offline", "write_minari", "write_npz"]
