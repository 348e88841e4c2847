"""A second reader of the audit formats, written from docs/audit-format.md alone."""
