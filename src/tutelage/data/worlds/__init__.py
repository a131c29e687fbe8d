"""Worlds: seeded generators of tasks with exact answers."""
