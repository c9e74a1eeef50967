"""The points of a study, and the lower bounds of all of them."""
