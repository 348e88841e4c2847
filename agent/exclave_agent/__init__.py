"""The Exclave agent: AI decisions made beside the data, recorded before they leave."""

__version__ = "0.1.0"
