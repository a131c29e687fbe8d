"""What is proved about a model, as opposed to measured: each room says on what its guarantee stands."""
