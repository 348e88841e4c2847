"""Package files and their signed descriptions: read with bounds, compared as dpkg and rpm do."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave_protocol import tufmeta
from exclave_protocol.errors import PackageError
from exclave_protocol.package_files import MAX_CONTROL, read_label, read_package
from exclave_protocol.packages import (
    Label,
    Package,
    compare,
    fitting,
    named,
    newest_of_each,
    packages_in,
    upstream,
    version_key,
)
from exclave_testing.packages import RPMBUILD, deb, package_of, rpm

EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)


def label_of(data: bytes) -> Label:
    return read_label(io.BytesIO(data))


# --- reading files ----------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["gz", "xz", ""])
def test_a_deb_says_what_it_is(packed: str, tmp_path: Path) -> None:
    data = deb("1:0.2.0~rc1-3", architecture="arm64", packed=packed)
    assert label_of(data) == Label("exclave-agent", "1:0.2.0~rc1-3", "arm64", "deb")
    (tmp_path / "x.deb").write_bytes(data)
    assert read_package(tmp_path / "x.deb").length == len(data)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
@pytest.mark.parametrize("packing", ["gzip", "xz", "none"])
def test_a_deb_of_dpkg_deb_is_read(packing: str, tmp_path: Path) -> None:
    (tmp_path / "t/DEBIAN").mkdir(parents=True)
    (tmp_path / "t/DEBIAN/control").write_text(
        "Package: exclave-agent\nVersion: 0.2.0-1\nArchitecture: all\nMaintainer: t <t@t.invalid>\n"
        "Description: t\n long\n"
    )
    (tmp_path / "t").chmod(0o755)
    words = ["dpkg-deb", "--root-owner-group", f"-Z{packing}", "-b", "t", "x.deb"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    assert read_package(tmp_path / "x.deb").label == Label("exclave-agent", "0.2.0-1", "all", "deb")


@pytest.mark.skipif(RPMBUILD is None, reason="rpmbuild is not installed")
def test_an_rpm_says_what_it_is(tmp_path: Path) -> None:
    found = read_package(rpm(tmp_path / "a", "0.2.0~rc1-3")).label
    machine = subprocess.run(["rpm", "--eval", "%{_arch}"], check=True, capture_output=True)
    assert found == Label("exclave-agent", "0.2.0~rc1-3", machine.stdout.decode().strip(), "rpm")
    assert read_package(rpm(tmp_path / "b", "0.2.0-1", epoch=2)).version == "2:0.2.0-1"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a .deb nor an .rpm"),
        (b"MZ" + bytes(100), "neither a .deb nor an .rpm"),
        (deb()[:100], "cut off"),
        (deb(fields="Version: 9\n"), "says a field twice"),
        (deb(version="one"), "version is not one of a deb package"),
        (deb(name="Exclave Agent"), "name is not one of a deb package"),
        (deb(architecture="amd64;reboot"), "architecture is not one"),
        (deb().replace(b"control.tar.gz  ", b"control.tar.zst "), "gzip, xz or not at all"),
        (deb().replace(b"control.tar.gz  ", b"data.tar.gz     "), "no control archive"),
        (deb(packed="").replace(b"./control", b"./contort"), "no control file"),
        (b"\xed\xab\xee\xdb\x03\x00\x00\x01" + bytes(200), "a source package"),
        (b"\xed\xab\xee\xdb\x03\x00\x00\x00" + bytes(200), "malformed or too large"),
    ],
)
def test_what_is_no_package_of_ours_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        label_of(data)


def test_a_control_archive_that_swells_is_not_unpacked() -> None:
    data = deb(fields="X: " + "a" * (2 * MAX_CONTROL) + "\n")
    assert len(data) < 1 << 20
    with pytest.raises(PackageError, match="cut off or too large"):
        label_of(data)


GOOD = deb(packed="")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_debs_raise_our_error_alone(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(PackageError):
        label_of(bytes(data))


@pytest.mark.skipif(RPMBUILD is None, reason="rpmbuild is not installed")
def test_damaged_rpms_raise_our_error_alone(tmp_path: Path) -> None:
    good = rpm(tmp_path, "0.2.0-1").read_bytes()
    for at in itertools.chain(range(400), range(400, min(len(good), 6000), 7)):
        for value in (0, 255):
            data = bytearray(good)
            data[at] = value
            for damaged in (bytes(data), good[:at]):
                with contextlib.suppress(PackageError):
                    label_of(damaged)


# --- signed descriptions ------------------------------------------------------------------------


def targets(*packages: Package, **custom: object) -> tufmeta.Targets:
    files = [tufmeta.target_file(p.path, p.sha256, p.length, p.custom()) for p in packages]
    return tufmeta.new_targets(1, files, EXPIRES).signed


def some(version: str, **more: str) -> Package:
    label = Label("exclave-agent", version, more.get("architecture", "amd64"), "deb")
    return Package(label, f"{abs(hash((version, *more.values()))):064x}"[:64], 10)


def test_packages_are_found_in_targets_by_version() -> None:
    packages = [some("0.10.0"), some("0.9.0"), some("0.9.0~rc1")]
    found = packages_in(targets(*packages))
    assert [p.version for p in found] == ["0.9.0~rc1", "0.9.0", "0.10.0"]
    assert Package.from_json(found[0].to_json()) == found[0]


def test_a_package_without_or_with_a_wrong_description_is_refused() -> None:
    package = package_of(deb())
    bare = tufmeta.target_file(package.path, package.sha256, package.length)
    with pytest.raises(PackageError, match="without its description"):
        packages_in(tufmeta.new_targets(1, [bare], EXPIRES).signed)
    elsewhere = tufmeta.target_file("packages/x.deb", package.sha256, 3, package.custom())
    with pytest.raises(PackageError, match="not named so"):
        packages_in(tufmeta.new_targets(1, [elsewhere], EXPIRES).signed)
    custom = package.custom()
    custom["exclave"]["version"] = 2
    wrong = tufmeta.target_file(package.path, package.sha256, 3, custom)
    with pytest.raises(PackageError, match="version must be a string"):
        packages_in(tufmeta.new_targets(1, [wrong], EXPIRES).signed)
    custom["exclave"]["format"] = "apk"
    later = tufmeta.target_file(package.path, package.sha256, 3, custom)
    assert packages_in(tufmeta.new_targets(1, [later], EXPIRES).signed) == []


def test_what_fits_a_machine_and_a_name() -> None:
    packages = [some("0.2.0-1"), some("0.1.0-2"), some("0.1.0-1"), some("0.3.0", architecture="x9")]
    fits = fitting(packages, name="exclave-agent", form="deb", architecture="amd64")
    assert [p.version for p in fits] == ["0.1.0-1", "0.1.0-2", "0.2.0-1"]
    for asked, found in (("0.1.0-1", "0.1.0-1"), ("0.1.0", "0.1.0-2"), ("0.2.0", "0.2.0-1")):
        package = named(fits, asked)
        assert package is not None
        assert package.version == found
    assert named(fits, "0.3.0") is None
    assert len(newest_of_each(packages, 2)) == 3


def test_the_softwares_own_version() -> None:
    assert [upstream(v) for v in ("1:0.2.0-3", "0.2.0", "0.2.0~rc1-1.el9")] == [
        "0.2.0",
        "0.2.0",
        "0.2.0rc1",
    ]


# --- versions -----------------------------------------------------------------------------------

VERSIONS = (
    *("0.1.0", "0.1.0-1", "0.1.0-2", "0.1.0~rc1", "0.1.0~rc1-1", "0.1.0~~", "0.1.0+b1", "0.10.0"),
    *("0.9.0", "1:0.1.0", "00.1.0", "0.1.0a", "0.1.0.a", "0.1", "1.0", "1.0.0", "2:0.0.1-9"),
)


def test_debs_are_compared_as_dpkg_does() -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("dpkg is not installed")
    for a, b in itertools.combinations(VERSIONS, 2):
        words = ["dpkg", "--compare-versions", a, "lt", b]
        older = subprocess.run(words, check=False).returncode == 0
        assert (compare("deb", a, b) < 0) == older, (a, b)


def test_rpms_are_compared_as_rpm_does() -> None:
    if shutil.which("rpm") is None:
        pytest.skip("rpm is not installed")
    known = [v for v in VERSIONS if "-" in v or ":" not in v] + ["0.1.0^git1", "0.1.0^", "0.1.0_1"]
    pairs = list(itertools.permutations(known, 2))
    script = "".join(f"print(rpm.vercmp('{a}','{b}')..' ')" for a, b in pairs)
    done = subprocess.run(
        ["rpm", "--eval", "%{lua:" + script + "}"], check=True, capture_output=True, text=True
    )
    answers = [int(word) for word in done.stdout.split()]
    for (a, b), theirs in zip(pairs, answers, strict=True):
        ours = compare("rpm", a, b)
        assert (ours > 0) - (ours < 0) == theirs, (a, b)


@given(st.lists(st.sampled_from(VERSIONS), min_size=3, max_size=3))
def test_both_orders_are_orders(three: list[str]) -> None:
    for form in ("deb", "rpm"):
        first, second, third = sorted(
            three, key=lambda v: version_key(Label("exclave-agent", v, "amd64", form))
        )
        assert compare(form, first, second) <= 0 >= compare(form, first, third)
        assert compare(form, second, third) <= 0
        assert compare(form, first, first) == 0
