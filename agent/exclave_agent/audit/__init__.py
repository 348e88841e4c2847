"""The agent's record: what is appended, signed, witnessed, verified and disclosed."""
