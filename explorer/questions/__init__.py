"""What if, from scripts and the command line: answers, variants, sweeps, and how robust a winner is."""
