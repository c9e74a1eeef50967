"""Pictures of layouts as SVG text, and pages of them that open without a network.

Side branch of the data's path: it looks at layouts and address maps and changes nothing.  Every function returns
the text of one picture: `grid_svg` the offsets of a tensor, `heat_svg` bank conflicts, `bits_svg` the matrix of a
layout that is linear over F2, `stripes_svg` which logical bit feeds which DRAM field; `html_page` puts pictures
together.  Texts of any origin are escaped, and pictures that would be too large are cut with a note.
"""

from layouts.draw.bits import bits_svg
from layouts.draw.colours import Colouring, by_bank, by_burst, by_field
from layouts.draw.grid import grid_svg, repr_svg
from layouts.draw.heat import heat_svg
from layouts.draw.page import html_page
from layouts.draw.stripes import stripes_svg

__all__ = [
    "Colouring",
    "bits_svg",
    "by_bank",
    "by_burst",
    "by_field",
    "grid_svg",
    "heat_svg",
    "html_page",
    "repr_svg",
    "stripes_svg",
]
