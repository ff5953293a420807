"""Benchmarks of speed and accuracy; `make bench` runs those of speed.

Machines are shared and noisy. Each benchmark therefore prints ratios of alternatives
that take turns in one process, as medians of several rounds.
"""
