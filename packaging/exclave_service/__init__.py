"""What any of our daemons asks of, and says to, the service manager that runs it."""
