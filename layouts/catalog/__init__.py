"""The layouts of serving stacks by name, each with its source.

kv, mla          KV caches, latent and indexer caches
page_map         page tables: from a position of a sequence to a page of a cache
scales, moe      quantisation scales, expert weights, routed activations
smem             canonical shared-memory tiles
record           records of mixed element widths in one byte space
stacks           the table from a name to its constructor
"""
