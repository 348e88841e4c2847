"""Our .deb and .rpm packages, built reproducibly: run build.py; docs/packages.md says more."""
