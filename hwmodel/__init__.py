"""Floor 1: the machine: what it executes (`program`), what it is (`spec`, `description`, `machine`), what a run costs.

The simulator knows cores, queues, buffers and memory; it never learns what a transformer is.
"""
