"""What the coordinator says of itself: counts and gauges, never contents."""
