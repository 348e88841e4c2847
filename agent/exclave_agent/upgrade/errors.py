"""Why an upgrade is refused: before anything was changed."""

from __future__ import annotations

from exclave_agent.errors import AgentError


class UpgradeRefused(AgentError):
    """Nothing was changed, or, by replaced_by_hand, nothing more: another version than the two of
    an upgrade was installed while it was not finished.

    Codes: no_package (none is signed for this machine, or none of that version),
    already_running, in_progress, cannot_revert (the present version's package is nowhere),
    wrong_architecture, downgrade (not asked for as one), disk_full, not_installed_by_package,
    package_broken, unit_missing, not_running, package_manager_busy, copy_failed, request_invalid,
    not_trusted (this machine was never installed with a root to trust), config_invalid, tampered,
    fetch_failed, internal, replaced_by_hand; and those of ReleaseRefused where the signed metadata
    is refused.
    """

    code = "upgrade_refused"
