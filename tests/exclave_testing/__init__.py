"""Fakes and builders that tests share; fakes pass the same contract suites as the adapters."""
