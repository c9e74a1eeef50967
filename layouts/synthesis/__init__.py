"""Layouts found rather than written down: swizzles without bank conflicts, with their certificate."""

from layouts.synthesis.search import Bound, Synthesis, synthesize

__all__ = ["Bound", "Synthesis", "synthesize"]
