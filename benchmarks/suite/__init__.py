"""The benchmark suite: cases as data, a harness of processes that take turns, and its report.

Nothing here imports torch: what is measured runs in processes of its own (`benchmarks/peers`).
"""
