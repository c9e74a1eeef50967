"""Tuning: which knobs suit a problem on a machine, by estimates in closed form; no program is run for it.

Beside the templates, whose programs the knobs give: `roof` estimates the time of a phase, `products` cuts matrix
products, `experts` grouped ones, `attention` what reads a cache, `chunks` linear attention. Whoever needs knobs takes
them from here: `--suggest`, the steps of a model, and predictions of measured rows.
"""
