"""Claims about systems that teach an agent or a person."""
