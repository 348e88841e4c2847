"""The agent's local HTTP interface: OpenAI's API and the Open Inference Protocol."""
