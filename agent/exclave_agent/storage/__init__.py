"""What the agent keeps on disk: one state database, one vault, one process that writes them."""
