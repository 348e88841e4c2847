"""What the bytes mean: pure functions over formats shared by agent, coordinator and auditor."""
