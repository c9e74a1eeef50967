"""Layouts in the notations of other systems: each module reads one family of texts and writes it."""
