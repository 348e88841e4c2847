"""Exports: a verified bundle's records in the words of other systems, record by record."""
