"""Claims about decisions in the worst case."""
