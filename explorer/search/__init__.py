"""The search: who proposes, who simulates, and what is proven."""
