"""All ways to spoil a bundle, gathered."""

from stranger import tampers_drawn, tampers_files, tampers_zip

LOADED = (tampers_drawn, tampers_files, tampers_zip)
