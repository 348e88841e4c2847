"""One module per group of commands; each reads arguments, calls, prints."""
