"""DRAM: standards as data, the compiled controller of all channels, and an independent checker."""
