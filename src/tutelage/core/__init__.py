"""What every room stands on: errors, randomness, files, cache, run folders, progress, statistics."""
