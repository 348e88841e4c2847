"""The Exclave coordinator: the centre that governs agents and never sees their data."""
