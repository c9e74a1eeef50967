"""What a program has room for, for all who write and read programs; the engine is compiled with these numbers."""

from __future__ import annotations

MAX_AXES = 6  # of a tensor
MAX_LOOPS = 3  # nested or in sequence, per queue and phase: more than any template needs
MAX_OPERANDS = 8  # of an instruction
MAX_SIGNALS = 4  # of an instruction
MAX_SIZES = 6  # of an instruction: what a masked tile of attention needs
MAX_WAITS = 4  # of an instruction
