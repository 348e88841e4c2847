"""What people at the centre type: keys, tenants, releases, rollouts, audit bundles."""
