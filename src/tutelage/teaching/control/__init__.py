"""Acting in environments: a small SAC, logging data sets, offline learners' common base, policies and their evaluation."""
