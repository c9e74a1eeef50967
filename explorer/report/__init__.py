"""Pages of results that open offline."""
