"""The database and the artifacts: the only room that knows SQL and files."""
