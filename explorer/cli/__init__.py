"""The command line: a file per group of commands; `options` is what they share."""
