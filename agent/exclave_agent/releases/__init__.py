"""Releases: watch, fetch, verify, activate and report; nothing unsigned passes this room."""
