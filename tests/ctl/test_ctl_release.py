"""Releases from draft to publication: thresholds, copies on two machines, repeats, rollbacks."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exclave_ctl.errors import CtlError
from exclave_ctl.release import ModelFile, releases_in
from exclave_ctl.workspace import Workspace
from exclave_protocol import tufmeta
from exclave_protocol.endpoint import Endpoint
from exclave_protocol.release import CA_BUNDLE_PATH, ReleaseManifest, digest_of, release_path
from exclave_testing.ctl import CASES, Ctl
from exclave_testing.fake_admin import FakeCoordinator


def publish(ctl: Ctl, workspace: Path, *signers: str) -> None:
    """Build, sign and publish one release."""
    ctl.build(workspace)
    ctl.sign(workspace, *signers)
    ctl("release", "publish", workspace)


def test_two_of_three_sign_copies_of_the_drafts_on_two_machines(
    ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    workspace = ctl.make_workspace()
    built = ctl.build(workspace)
    # Each machine gets the drafts folder and its own key, and no profile.
    for name in ("alice", "bob"):
        copy = tmp_path / f"machine-{name}"
        shutil.copytree(workspace / "drafts", copy)
        signed = json.loads(
            ctl("release", "sign", copy, "--key", tmp_path / f"{name}.key", "--json").stdout
        )
        assert signed["signed"] == ["root", "targets"]
        assert not signed["complete"]
    merged = ctl.json(
        "release", "merge", workspace, tmp_path / "machine-alice", tmp_path / "machine-bob"
    )
    assert merged == {"added": 4, "complete": True}
    done = ctl.json("release", "publish", workspace)
    assert done == {"published": True, "root_version": 1, "targets_version": 1, "uploaded": 4}

    tenant = coordinator.admin.tenants["acme"]
    targets = tufmeta.verify_targets(
        tufmeta.verify_roots(None, tenant.roots).signed, tenant.targets, now=datetime.now(UTC)
    )
    manifest = ReleaseManifest.decode(tenant.artifacts[built["digest"]])
    assert release_path(built["digest"]) in targets.signed.targets
    assert CA_BUNDLE_PATH in targets.signed.targets
    assert all(ref.sha256 in tenant.artifacts for ref in manifest.targets())
    assert manifest.models[0].parameters == {"n_ctx": 512}
    assert manifest.offline_grace_seconds == 86_400


def test_publish_says_how_many_signatures_are_missing_and_whose(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    ctl.sign(workspace, "alice")
    done = ctl("release", "publish", workspace, code=1)
    for role in ("root", "targets"):
        assert f"{role} version 1 has 1 of 2 signatures, 1 missing" in done.stderr
    assert "bob (" in done.stderr
    assert "carol (" in done.stderr
    assert "alice (" not in done.stderr
    assert "hint: run `exclave release sign" in done.stderr
    assert coordinator.admin.uploads == []
    assert coordinator.admin.tenants["acme"].roots == []


def test_a_forged_signature_does_not_count(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    ctl.sign(workspace, "alice", "bob")
    path = workspace / "drafts" / "targets.json"
    draft = json.loads(path.read_text())
    draft["signatures"][1]["sig"] = draft["signatures"][0]["sig"]
    path.write_text(json.dumps(draft))
    done = ctl("release", "publish", workspace, code=1)
    assert "targets version 1 has 1 of 2 signatures" in done.stderr
    assert "root version" not in done.stderr
    # The owner of the broken signature can repair it.
    ctl.sign(workspace, "bob")
    ctl("release", "publish", workspace)


def test_publish_may_be_repeated(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    workspace = ctl.make_workspace()
    publish(ctl, workspace, "alice", "bob")
    uploads = list(coordinator.admin.uploads)
    again = ctl("release", "publish", workspace)
    assert "nothing to publish: root 1 and targets 1" in again.stdout
    assert coordinator.admin.uploads == uploads


def test_publish_after_a_lost_reply_recognises_its_own_work(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    ctl.sign(workspace, "alice", "bob")
    coordinator.admin.fail_after_publish = True
    ctl("release", "publish", workspace, code=1)
    assert ctl.json("release", "publish", workspace)["published"] is False
    assert not (workspace / "drafts" / "targets.json").exists()
    assert not (workspace / "drafts" / "root.json").exists()


def test_signing_twice_changes_nothing_and_a_stranger_cannot_sign(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    ctl.make_keys("mallory")
    ctl.build(workspace)
    ctl.sign(workspace, "alice")
    before = (workspace / "drafts" / "targets.json").read_bytes()
    again = ctl("release", "sign", workspace, "--key", ctl.folder / "alice.key")
    assert "already signed" in again.stdout
    assert (workspace / "drafts" / "targets.json").read_bytes() == before
    refused = ctl("release", "sign", workspace, "--key", ctl.folder / "mallory.key", code=1)
    assert "is not one of the keys that sign these drafts" in refused.stderr


def test_a_signer_is_not_shown_one_release_while_signing_another(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    path = workspace / "drafts" / "release.json"
    manifest = json.loads(path.read_text())
    manifest["offline_grace_seconds"] = 1
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    refused = ctl("release", "sign", workspace, "--key", ctl.folder / "alice.key", code=1)
    assert "is not the release that the targets draft names" in refused.stderr


@pytest.mark.parametrize("described", [True, False])
def test_a_signer_sees_every_release_that_the_signature_allows(ctl: Ctl, described: bool) -> None:
    workspace = ctl.make_workspace()
    built = ctl.build(workspace)
    path = workspace / "drafts" / "targets.json"
    draft = json.loads(path.read_text())
    named = draft["signed"]["targets"]
    smuggled = json.loads(json.dumps(named[f"releases/{built['digest']}.json"]))
    smuggled["hashes"]["sha256"] = "e" * 64
    if described:
        smuggled["custom"]["exclave"]["version"] = 7
    else:
        del smuggled["custom"]
    named[f"releases/{'e' * 64}.json"] = smuggled
    path.write_text(json.dumps(draft))
    words = ("release", "sign", workspace, "--key", ctl.folder / "alice.key")
    if described:
        assert f"also lets release 7 run ({'e' * 64})" in ctl(*words).stderr
    else:
        assert "without describing it" in ctl(*words, code=1).stderr


def test_copies_of_different_builds_are_not_merged(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    shutil.copytree(workspace / "drafts", tmp_path / "copy")
    ctl.build(workspace, "--offline-grace", "1h")
    refused = ctl("release", "merge", workspace, tmp_path / "copy", code=1)
    assert "drafts differ" in refused.stderr


def test_the_next_release_keeps_older_targets_models_and_the_floor(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    first = ctl.build(workspace, "--minimum-version", 1)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    second = ctl.json("release", "build", workspace, "--pack", ctl.pack(), "--model", "keep")
    assert second["version"] == 2
    assert second["models"] == first["models"]
    targets = Workspace.load(workspace).drafts.targets()
    assert targets is not None
    releases = releases_in(targets.signed)
    assert [(r.version, r.minimum_version) for r in releases] == [(1, 1), (2, 1)]
    assert [r.digest for r in releases] == [first["digest"], second["digest"]]
    assert releases[1].models[0].parameters == {"n_ctx": 512}
    # One person who was not among the first two signs now: the root is published already.
    ctl.sign(workspace, "carol", "alice")
    done = ctl.json("release", "publish", workspace)
    assert done["targets_version"] == 2
    # Only the manifest is new: pack, model and CA were there.
    assert done["uploaded"] == 1
    shown = ctl.json("release", "show", "--published", "acme")
    assert [r["version"] for r in shown["releases"]] == [1, 2]
    assert shown["releases"][1]["digest"] == second["digest"]


def test_releases_below_the_floor_leave_the_signed_targets(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    publish(ctl, workspace, "alice", "bob")
    words = ("release", "build", workspace, "--pack", ctl.pack(), "--model", "keep")
    second = ctl.json(*words)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    third = ctl.json(*words, "--minimum-version", 2)
    ctl.sign(workspace, "alice", "bob")
    ctl("release", "publish", workspace)
    shown = ctl.json("release", "show", "--published", "acme")
    assert [r["digest"] for r in shown["releases"]] == [second["digest"], third["digest"]]
    # The model stays: releases above the floor name it too.
    assert shown["releases"][0]["models"] == shown["releases"][1]["models"] != {}


def test_a_lower_version_or_keeping_nothing_is_refused(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    words = ("release", "build", workspace, "--pack", ctl.pack())
    assert "no release before" in ctl(*words, "--model", "keep", code=1).stderr
    publish(ctl, workspace, "alice", "bob")
    assert "not above the newest" in ctl(*words, "--version", 1, code=1).stderr
    refused = ctl(*words, "--minimum-version", 9, code=1)
    assert "minimum_version must be between" in refused.stderr


def test_a_model_changed_after_the_build_is_not_published(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    ctl.sign(workspace, "alice", "bob")
    path = ctl.folder / "small.gguf"
    path.write_bytes(b"EVIL" + path.read_bytes()[4:])
    refused = ctl("release", "publish", workspace, code=1)
    assert "has changed since the release was built" in refused.stderr
    assert coordinator.admin.tenants["acme"].targets == b""
    path.unlink()
    refused = ctl("release", "publish", workspace, code=1)
    assert "neither at the coordinator nor here: models/" in refused.stderr
    # The file comes back: publication goes on where it stopped.
    ctl.model()
    assert ctl.json("release", "publish", workspace)["published"] is True


def test_a_policy_whose_case_fails_is_not_drafted(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    (ctl.pack() / "cases.yaml").write_text(CASES.replace("allowed: true", "allowed: false"))
    refused = ctl("release", "build", workspace, "--pack", ctl.pack(), code=1)
    assert "1 of 1 policy cases fail" in refused.stderr
    (ctl.pack() / "policy.yaml").write_text("kind: Policy\n")
    refused = ctl("release", "build", workspace, "--pack", ctl.pack(), code=1)
    assert "policy.yaml" in refused.stderr
    assert not (workspace / "drafts" / "targets.json").exists()


def test_several_packs_are_combined(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    other = tmp_path / "other"
    shutil.copytree(ctl.pack(), other)
    for name in ("policy.yaml", "cases.yaml"):
        text = (other / name).read_text().replace("analysts", "others").replace("chat,", "more,")
        (other / name).write_text(text)
    (other / "policy.yaml").write_text(
        (other / "policy.yaml").read_text().replace("name: chat", "name: more")
    )
    (other / "cases.yaml").unlink()
    ctl("release", "build", workspace, "--pack", ctl.pack(), "--pack", other)


def test_targets_that_the_root_does_not_vouch_for_are_not_believed(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    publish(ctl, workspace, "alice", "bob")
    tenant = coordinator.admin.tenants["acme"]
    forged = tufmeta.load_targets(tenant.targets)
    forged.signed.version += 1
    tenant.targets = tufmeta.to_bytes(forged)
    refused = ctl("release", "build", workspace, "--pack", ctl.pack(), code=1)
    assert "targets has 0 of 2 signatures" in refused.stderr


def test_another_root_than_the_workspaces_is_not_believed(
    ctl: Ctl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    mine = ctl.make_workspace()
    other = tmp_path / "other"
    keys = [word for n in ("alice", "bob") for word in ("--key", tmp_path / f"{n}.pub")]
    ctl("tenant", "create", "acme", *keys, "--threshold", 1, "--existing", "-o", other)
    publish(ctl, other, "alice")
    refused = ctl("release", "build", mine, "--pack", ctl.pack(), code=1)
    assert "published with another root than this workspace's" in refused.stderr


def test_a_draft_overtaken_by_another_publication_is_refused(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    publish(ctl, workspace, "alice", "bob")
    twin = tmp_path / "twin"
    shutil.copytree(workspace, twin)
    for folder, grace in ((workspace, "1h"), (twin, "2h")):
        ctl.build(folder, "--offline-grace", grace)
        ctl.sign(folder, "alice", "bob")
    ctl("release", "publish", twin)
    refused = ctl("release", "publish", workspace, code=1)
    assert "targets version 2 was published since this release was built" in refused.stderr


def test_renew_gives_the_same_targets_a_later_expiry(
    ctl: Ctl, coordinator: FakeCoordinator
) -> None:
    workspace = ctl.make_workspace()
    publish(ctl, workspace, "alice", "bob")
    tenant = coordinator.admin.tenants["acme"]
    before = tufmeta.load_targets(tenant.targets).signed
    ctl("release", "renew", workspace, "--expires", "90d")
    ctl.sign(workspace, "bob", "carol")
    ctl("release", "publish", workspace)
    after = tufmeta.load_targets(tenant.targets).signed
    assert after.version == 2
    assert after.targets == before.targets
    assert (after.expires - before.expires).days >= 59


def test_building_offline_needs_no_coordinator(ctl: Ctl, coordinator: FakeCoordinator) -> None:
    workspace = ctl.make_workspace()
    publish(ctl, workspace, "alice", "bob")
    coordinator.stop()
    assert ctl.build(workspace, "--offline")["version"] == 2
    refused = ctl("release", "build", workspace, "--pack", ctl.pack(), code=1)
    assert "cannot reach the coordinator" in refused.stderr


def test_rebuilding_warns_that_signatures_are_gone(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    ctl.build(workspace)
    ctl.sign(workspace, "alice")
    again = ctl("release", "build", workspace, "--pack", ctl.pack())
    assert "warning: an unpublished draft was replaced" in again.stderr
    shown = ctl.json("release", "show", workspace)
    assert {d["role"]: d["have"] for d in shown["drafts"]} == {"root": 1, "targets": 0}
    assert shown["release"]["version"] == 1


def test_the_manifest_digest_names_the_release(ctl: Ctl) -> None:
    workspace = ctl.make_workspace()
    built = ctl.build(workspace)
    data = (workspace / "drafts" / "release.json").read_bytes()
    assert digest_of(data) == built["digest"]
    assert (workspace / "blobs" / built["digest"]).read_bytes() == data


@pytest.mark.parametrize(
    ("text", "runtime", "parameters"),
    [
        ("m={}.gguf", "llama", {}),
        ("m={}.onnx", "onnx", {}),
        ("m={}.bin:runtime=onnx", "onnx", {}),
        ("m={}.bin,runtime=llama,n_ctx=64", "llama", {"n_ctx": 64}),
        ("m={}.gguf:embeddings=true,note=a-b", "llama", {"embeddings": True, "note": "a-b"}),
        ("m={}.gguf,offset=-1", "llama", {"offset": -1}),
    ],
)
def test_model_words(
    tmp_path: Path, text: str, runtime: str, parameters: dict[str, object]
) -> None:
    base = tmp_path / "we,ird: name"
    for suffix in ("gguf", "onnx", "bin"):
        base.with_suffix(f".{suffix}").touch()
    parsed = ModelFile.parse(text.format(base))
    assert (parsed.name, parsed.runtime, dict(parsed.parameters)) == ("m", runtime, parameters)
    assert parsed.path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no-path", "--model must be"),
        ("m=/nowhere.gguf", "no file"),
        ("m=/x.bin", "which runtime"),
        ("m=/x.bin,runtime=magic", "which runtime"),
    ],
)
def test_bad_model_words(text: str, message: str) -> None:
    with pytest.raises(CtlError, match=message):
        ModelFile.parse(text)


# --- remote models and adapters ---------------------------------------------------------------

ENDPOINT = {
    "schema": "exclave.endpoint/v1",
    "provider": "openai",
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-5-mini",
    "actions": ["chat"],
    "data_classes": ["public"],
    "secret": "openai-main",
}


def test_an_endpoint_document_is_signed_in_its_canonical_form(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    written = tmp_path / "cloud.json"
    written.write_text(json.dumps(ENDPOINT, indent=2))
    built = ctl.build(workspace, "--model", f"cloud={written},runtime=remote")
    signed = (workspace / "blobs" / built["models"]["cloud"]).read_bytes()
    endpoint = Endpoint.decode(signed)
    assert (endpoint.model, endpoint.secret) == ("gpt-5-mini", "openai-main")
    manifest = ReleaseManifest.decode((workspace / "drafts" / "release.json").read_bytes())
    (entry,) = [model for model in manifest.models if model.name == "cloud"]
    assert (entry.runtime, entry.sha256, entry.length) == ("remote", digest_of(signed), len(signed))


@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        ({"base_url": "http://api.openai.com/v1"}, "", "base_url must be https"),
        ({"secret": "sk-Proj_abc"}, "", "NAME of a key"),
        ({"api_key": "sk-1"}, "", "unknown fields"),
        ({}, ",n_ctx=5", "takes no parameters"),
    ],
)
def test_a_bad_endpoint_document_is_refused(
    ctl: Ctl, tmp_path: Path, fields: dict[str, str], options: str, words: str
) -> None:
    workspace = ctl.make_workspace()
    written = tmp_path / "cloud.json"
    written.write_text(json.dumps(ENDPOINT | fields))
    model = f"cloud={written},runtime=remote{options}"
    refused = ctl("release", "build", workspace, "--pack", ctl.pack(), "--model", model, code=1)
    assert words in refused.stderr
    assert "sk-" not in refused.stderr


def test_an_adapter_names_its_base(ctl: Ctl, tmp_path: Path) -> None:
    workspace = ctl.make_workspace()
    base, adapter, other = (tmp_path / name for name in ("base.gguf", "a.gguf", "b.gguf"))
    base.write_bytes(b"GGUF base")
    adapter.write_bytes(b"GGUF adapter")
    other.write_bytes(b"safetensors")
    words = ["--model", f"small={base}"]
    built = ctl.build(workspace, *words, "--model", f"tuned={adapter},runtime=lora,base=small")
    assert set(built["models"]) >= {"small", "tuned"}
    for model, told in (
        (f"tuned={adapter},runtime=lora", "base must name the llama model"),
        (f"tuned={adapter},runtime=lora,base=absent", "base must name the llama model"),
        (f"tuned={other},runtime=lora,base=small", "is no GGUF file"),
    ):
        refused = ctl(
            *("release", "build", workspace, "--pack", ctl.pack(), *words, "--model", model),
            code=1,
        )
        assert told in refused.stderr
