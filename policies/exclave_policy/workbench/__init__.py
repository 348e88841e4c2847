"""What authors of policy work with: cases, coverage, lints, differences, explanations."""
