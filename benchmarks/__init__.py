"""Benchmarks: what the rules reach, what the solvers cost, beside their peers."""
