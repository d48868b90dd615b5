"""Which engine fits a workload, and why: rules as data, an answer with its sources."""
