"""Benchmarks: the same programs natively and inside each engine, and what the figures say."""
