"""What exists: sixty-four published systems, each with its paper, its room and the claim it must meet. Pure data."""

from tutelage.catalogue.loader import ROOM_PURPOSE, ROOMS, PrimaryClaim, System, find, search, systems

__all__ = ["ROOMS", "ROOM_PURPOSE", "PrimaryClaim", "System", "find", "search", "systems"]
