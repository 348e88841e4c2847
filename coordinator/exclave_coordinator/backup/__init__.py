"""Backups: one archive of a whole coordinator, and the way from an archive to a coordinator."""
