"""Curricula: samplers that propose the next task to a learner from its progress, and what runs them."""
