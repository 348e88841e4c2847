"""Upgrade: the agent's own package, replaced by a newer signed one and put back if it does not run.

Two sides that meet in a folder of the agent's home, and trust each other with nothing else:

    agent (its own user)                root (exclave-upgrade.service, its own cgroup)
    desk  finds, fetches, stages   >    mailbox  reads what was staged, once
          request.json             >    vet      verifies it against its own pinned root
                                        engine   installs, checks, puts back; each step durable
    desk  records and tells        <    result.json

The agent may be wrong or subverted: all it can do is ask for a package that the tenant's people
signed. The root side has no network.
"""
