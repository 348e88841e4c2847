"""The policy language: parse, check, evaluate, pack; pure and total; errors deny."""
