"""The top floor: a study in, a searched space and a report out.

study (YAML) -> space (every distinct point with its lower bound) -> search (ask, simulate, tell) -> store
(one row per point) -> certificate, tables and figures -> report. Everything below is pure; files, processes,
the terminal and the environment are met here, and only `evaluate` imports the lower floors.
"""
