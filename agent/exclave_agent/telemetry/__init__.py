"""What the agent says about itself in numbers."""
