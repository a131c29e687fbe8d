"""Changes of data sets that something is learned from: each returns what it touched."""
