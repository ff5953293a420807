"""What the speed claims are measured with; `make bench` runs all of it.

Machines are shared and noisy: each benchmark prints ratios of things that ran in
turn in one process, medians of several rounds.
"""
