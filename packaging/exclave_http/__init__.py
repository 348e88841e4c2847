"""HTTP served to people and programs who may mean harm: agent and coordinator share it."""
