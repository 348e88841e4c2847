"""The decision path: whether a call may run, what it runs on, and the record of both."""
