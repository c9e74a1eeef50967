"""Replays of one DRAM controller as tables and pictures."""
