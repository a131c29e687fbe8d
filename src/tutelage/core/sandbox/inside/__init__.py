"""What runs on the other side: a small interpreter that forks one process for each program.

The files here are read by an interpreter without site-packages (`-S`): they use the standard library and each other only.
"""
