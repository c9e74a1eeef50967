"""Floor 1, the other half: what every kernel's values must be, one NumPy formula per kernel.

It stands beside `hwmodel` and does not know it, so that the one can judge the other: whatever a compiled
program computes on the simulated memory is compared with the formula here. Operands of any real type are
widened to float64 first, so the only rounding left is that of float64; the caller chooses the tolerance its
own types deserve.
Nothing here models time, memory, tiling, layouts or the rounding of narrow types.
"""
