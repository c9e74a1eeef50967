"""A study of twelve points, which takes seconds."""

from __future__ import annotations

STUDY = """
machine: h100-sxm
kernel: decode-attention
model: llama-3.1-8b
batch: {sequences: 4, context: 256}
knobs:
  layout: [page kv token head dim, page kv head token dim, page kv head token//32 dim token%32]
  page_size: [16, 32]
  tile: [32, 64]
baseline: {page_size: 16}
budget: {points: 6, batch: 2}
"""
