"""Doctor: looks at everything the agent needs, and says of each what it found and what to do.

Nothing here writes into the agent's home, and nothing here shows what a request was about.
"""
