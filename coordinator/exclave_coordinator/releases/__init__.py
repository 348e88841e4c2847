"""What agents shall run: signed metadata taken in, rollouts started."""
