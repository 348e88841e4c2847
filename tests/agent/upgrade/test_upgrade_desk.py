"""The agent's side: what it asks for, what it refuses to ask for, what it tells."""

from __future__ import annotations

import asyncio
import json
import stat
from typing import Any

import pytest

from exclave_agent.errors import AgentError, LinkError, StorageFull
from exclave_agent.upgrade.letters import Outcome, Request, Result
from exclave_agent.upgrade.machine import PATH_UNIT
from exclave_agent.upgrade.state import Book, Phase, State
from exclave_testing.upgrade_files import NOW, Site


async def refused(site: Site, *args: Any, **more: Any) -> str:
    with pytest.raises(AgentError) as caught:
        await site.desk.request(*args, **more)
    assert not (site.home / "upgrade/request.json").exists()
    return caught.value.code


def end(site: Site, request_id: str, outcome: Outcome, code: str = "", **more: Any) -> Result:
    """Root's answer."""
    result = Result(request_id, "0.1.0", "0.2.0", outcome, code, "why", (), NOW, NOW + 9, **more)
    (site.home / "upgrade").mkdir(mode=0o700, exist_ok=True)
    site.mailbox.answer(result)
    site.mailbox.clear(request_id)
    return result


async def test_the_newest_signed_version_is_asked_for_with_everything_root_needs(
    site: Site,
) -> None:
    asked = await site.desk.request()
    assert (asked["from"], asked["to"]) == ("0.1.0", "0.2.0")
    folder = site.home / "upgrade"
    request = Request.decode((folder / "request.json").read_bytes())
    assert request.id == asked["id"]
    assert request.package == site.packages["0.2.0"].sha256
    assert request.former == site.packages["0.1.0"].sha256
    staged = folder / f"staging-{request.id}"
    assert {p.name for p in (staged / "metadata").iterdir()} == {
        "1.root.json",
        "timestamp.json",
        "1.snapshot.json",
        "1.targets.json",
    }
    for version in ("0.1.0", "0.2.0"):
        package = site.packages[version]
        data = (staged / "packages" / package.file_name).read_bytes()
        assert data == site.repo.source.targets[package.sha256]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert site.desk.status() == {
        "id": request.id,
        "state": "waiting",
        "from": "",
        "to": "",
        "outcome": "",
        "code": "",
        "reason": "",
        "warnings": [],
    }


async def test_what_root_keeps_is_not_fetched_again(site: Site) -> None:
    site.shelf.settle([site.packages["0.1.0"]])
    asked = await site.desk.request()
    request = Request.decode((site.home / "upgrade/request.json").read_bytes())
    assert asked["to"] == "0.2.0"
    assert request.former == ""
    assert [sha256 for sha256, _ in site.repo.source.reads] == [site.packages["0.2.0"].sha256]


async def test_a_version_is_named(site: Site) -> None:
    site.sign("0.3.0-1", "0.3.0-2")
    assert (await site.desk.check("0.2.0"))["target"] == "0.2.0"
    assert (await site.desk.check())["target"] == "0.3.0-2"
    assert (await site.desk.check("0.3.0"))["target"] == "0.3.0-2"
    assert (await site.desk.check("0.1.0")) == {"present": "0.1.0", "target": None}
    assert await refused(site, "0.9.0") == "no_package"
    assert await refused(site, "0.1.0") == "already_running"


async def test_an_older_version_is_taken_only_if_that_is_meant(site: Site) -> None:
    site.says(version="0.2.0", architecture="amd64", format="deb")
    assert (await site.desk.check())["target"] is None
    assert await refused(site) == "already_running"
    assert await refused(site, "0.1.0") == "downgrade"
    await site.desk.request("0.1.0", downgrade=True)
    assert Request.decode((site.home / "upgrade/request.json").read_bytes()).downgrade


async def test_packages_for_other_machines_do_not_count(site: Site) -> None:
    site.says(version="0.1.0", architecture="arm64", format="deb")
    assert await refused(site) == "no_package"
    site.says(version="0.1.0-1", architecture="x86_64", format="rpm")
    assert await refused(site) == "no_package"


async def test_without_the_present_package_there_is_no_way_back(site: Site) -> None:
    site.says(version="0.1.5", architecture="amd64", format="deb")
    assert await refused(site) == "cannot_revert"
    assert site.repo.source.reads == [], "nothing was fetched for it"


async def test_no_room_is_known_before_anything_is_fetched(site: Site) -> None:
    site.room = 3 * site.packages["0.2.0"].length
    assert await refused(site) == "disk_full"
    assert site.repo.source.reads == []


async def test_only_the_packaged_system_service_upgrades_itself(site: Site) -> None:
    (site.units / PATH_UNIT).unlink()
    assert await refused(site) == "unit_missing"
    (site.units / PATH_UNIT).touch()
    site.says(nothing=True)
    assert await refused(site) == "not_installed_by_package"
    (site.program / "share/package.json").unlink()
    assert await refused(site) == "not_installed_by_package"


async def test_an_agent_from_a_source_tree_says_so(site: Site) -> None:
    from dataclasses import replace

    site.machine = replace(site.machine, code=site.folder / "src/exclave_agent/__init__.py")
    site.desk = site.new_desk()
    assert await refused(site) == "not_installed_by_package"


async def test_signed_metadata_is_checked_before_anything_else(site: Site) -> None:
    site.sign("0.3.0", publish=False)
    site.repo.publish(signers=("ann",))
    assert await refused(site) == "under_signed"
    site.repo.source.offline = True
    with pytest.raises(LinkError):
        await site.desk.request()


async def test_one_at_a_time(site: Site) -> None:
    both = await asyncio.gather(site.desk.request(), site.desk.request(), return_exceptions=True)
    assert sorted(type(each).__name__ for each in both) == ["UpgradeRefused", "dict"]
    with pytest.raises(AgentError) as caught:
        await site.desk.request()
    assert caught.value.code == "in_progress"


async def test_root_may_still_be_busy_when_the_request_is_gone(site: Site) -> None:
    Book(site.root).save(State(Phase.CHECKING, "b" * 32, NOW, NOW))
    assert await refused(site) == "in_progress"


async def test_a_deadline_out_of_range(site: Site) -> None:
    assert await refused(site, deadline=1) == "request_invalid"


async def test_what_comes_over_the_control_socket(site: Site) -> None:
    assert await site.desk.answer({"check": True}) == {"present": "0.1.0", "target": "0.2.0"}
    for wrong in ({"version": 2}, {"deadline": "60"}, {"deadline": True}):
        with pytest.raises(AgentError) as caught:
            await site.desk.answer(wrong)
        assert caught.value.code == "request_invalid"
    asked = {"version": "0.2.0", "downgrade": False, "deadline": 90, "check": False}
    assert (await site.desk.answer(asked))["to"] == "0.2.0"
    assert json.loads((site.home / "upgrade/request.json").read_bytes())["deadline"] == 90


async def test_progress_is_told_as_root_makes_it(site: Site) -> None:
    asked = await site.desk.request()
    present, target = site.packages["0.1.0"], site.packages["0.2.0"]
    state = State(Phase.CHECKING, asked["id"], NOW, NOW, present=present, target=target)
    Book(site.root).save(state)
    status = site.desk.status()
    assert status is not None
    assert (status["state"], status["from"], status["to"]) == ("checking", "0.1.0", "0.2.0")


async def test_a_result_is_recorded_once_and_shown_from_then_on(site: Site) -> None:
    assert site.desk.status() is None
    await site.desk.report()
    asked = await site.desk.request()
    end(site, asked["id"], Outcome.REVERTED, "crash_loop")
    await site.desk.report()
    await site.desk.report()
    after_restart = site.new_desk()
    await after_restart.report()
    (incident,) = site.incidents.incidents
    assert incident[0] == "upgrade_reverted"
    assert incident[1] == f"exclave-agent 0.1.0 > 0.2.0 ({asked['id']}): crash_loop: why"
    status = after_restart.status()
    assert status is not None
    assert (status["state"], status["outcome"], status["code"]) == (
        "finished",
        "reverted",
        "crash_loop",
    )
    # What was staged and fetched is not kept: root has its own copies.
    left = {p.name for p in (site.home / "upgrade").iterdir()}
    assert left == {"packages", "result.json"}
    assert list((site.home / "upgrade/packages").iterdir()) == []


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_each_outcome_has_its_incident(site: Site, outcome: Outcome) -> None:
    end(site, "c" * 32, outcome)
    await site.desk.report()
    assert site.incidents.incidents[0][0] == f"upgrade_{outcome}"


async def test_a_record_that_cannot_be_written_is_tried_again(site: Site) -> None:
    end(site, "c" * 32, Outcome.DONE)
    site.incidents.log.failure = StorageFull("the disk is full")
    with pytest.raises(StorageFull):
        await site.desk.report()
    site.incidents.log.failure = None
    await site.desk.report()
    assert len(site.incidents.incidents) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema": "exclave.upgrade-result/v1"}'])
async def test_a_result_that_is_none_is_left_alone(site: Site, data: bytes) -> None:
    (site.home / "upgrade").mkdir(exist_ok=True)
    (site.home / "upgrade/result.json").write_bytes(data)
    await site.desk.report()
    assert site.desk.status() is None
    assert site.incidents.incidents == []


async def test_an_interrupted_staging_is_swept_away(site: Site) -> None:
    (site.home / "upgrade/staging-old/packages").mkdir(parents=True)
    await site.desk.request()
    assert not (site.home / "upgrade/staging-old").exists()


async def test_the_new_version_goes_on_from_the_old_ones_metadata(site: Site) -> None:
    """Two upgrades in a row: the second needs no former package, and newer metadata."""
    first = await site.desk.request()
    plan = site.vetting().vet(site.mailbox.request(), NOW)  # type: ignore[arg-type]  # it is there
    site.shelf.settle([plan.target, plan.present])
    end(site, first["id"], Outcome.DONE)
    await site.desk.report()
    site.says(version="0.2.0", architecture="amd64", format="deb")
    site.sign("0.3.0")
    second = await site.new_desk().request()
    assert (second["from"], second["to"]) == ("0.2.0", "0.3.0")
    request = json.loads((site.home / "upgrade/request.json").read_bytes())
    assert request["former"] == ""
