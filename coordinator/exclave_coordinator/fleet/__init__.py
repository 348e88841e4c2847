"""Agents: how they enroll, who they are, and the live sessions with them."""
