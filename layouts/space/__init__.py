"""The legal space of layouts of a tensor: counted, enumerated and sampled without duplicates.

`space` holds the description and the public calls, `orders` counts and walks the orders of digits in memory,
`variants` knows what a swizzle on top of an order keeps and what it breaks.
"""

from layouts.space.space import Space

__all__ = ["Space"]
