"""Makes the packaged agent a running system service, and back: only what root alone can do."""
