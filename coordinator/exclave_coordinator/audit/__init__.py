"""The agents' records and the operators' own: received, witnessed, exported."""
