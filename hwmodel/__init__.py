"""Floor 1: the machine. What it can execute (`program`), what it is (`spec`, `description`, `machine`), and what a run costs.

The simulator knows cores, queues, buffers and memory; it never learns what a transformer is.
"""
