"""Tutoring: what to teach an agent or a person next, and how."""
