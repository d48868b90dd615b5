"""Images from end to end: the command line, a daemon of its own, and the real engines."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import media
from tests.live.daemon import CACHE, TRIUNE, Daemon
from tests.live.image_fixtures import SHARED, builder_key, shared_cache
from tests.live.registry import GOOD, serve
from tests.patience import PATIENCE, Awake

pytestmark = [pytest.mark.live]

PREFIX = "te2e-"
IMAGE = "debian/12"
PACKAGES = ("--package", "cloud-init", "--package", "openssh-server")
USER_DATA = """\
#cloud-config
write_files:
  - path: /etc/te2e
    content: written
runcmd:
  - [sh, -c, "echo ran > /var/lib/te2e"]
"""
DOCKER = "/usr/bin/docker"
INSIDE = "hostname; cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub"


def docker(*argv: str) -> str:
    return subprocess.run([DOCKER, *argv], capture_output=True, text=True, check=True).stdout.strip()


def eventually(what: Callable[[], Any], timeout: float) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        found = what()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    made = Daemon(
        CACHE / "data-images",
        bridge="triteB0",
        table="triune_testb",
        domain="testb.internal",
        candidates=["10.95.0.0/16"],
    )
    shared_cache(made.data / "images")
    with made:
        made.remove_all(PREFIX)
        for row in made.json("image", "list"):
            if "te2e" in row["name"]:
                made.run("image", "rm", row["name"], "--yes", check=False)
        stamp = made.data / "builder"
        fresh = stamp.exists() and stamp.read_text() == builder_key()
        made.run("image", "build", IMAGE, *PACKAGES, *([] if fresh else ["--rebuild"]), timeout=600)
        stamp.write_text(builder_key())
        yield made
        made.remove_all(PREFIX)
        made.stop()


@pytest.fixture(scope="module")
def tree(daemon: Daemon) -> Path:
    return Path(daemon.json("image", "show", IMAGE)["forms"]["tree"]["path"])


@pytest.fixture(scope="module")
def machines(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Two running instances of each engine, by engine; the first VM and system container have user data.

    The second VM boots by its own loader. The VMs start while other tests run.
    """
    data = tmp_path_factory.mktemp("user-data") / "user-data"
    data.write_text(USER_DATA)
    told = ("--set", f"user-data={data}")
    daemon.run("launch", IMAGE, f"{PREFIX}kvm1", "--engine", "kvm", *told, "--disk", "12GiB", "--wait", "running")
    daemon.run("launch", IMAGE, f"{PREFIX}kvm2", "--engine", "kvm", "--set", "firmware=uefi", "--wait", "running")
    daemon.launch(IMAGE, f"{PREFIX}lxc1", "lxc", *told)
    daemon.launch(IMAGE, f"{PREFIX}lxc2", "lxc")
    for number in (1, 2):
        daemon.launch(IMAGE, f"{PREFIX}docker{number}", "docker")
    return {engine: [f"{PREFIX}{engine}{number}" for number in (1, 2)] for engine in ("kvm", "lxc", "docker")}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.root_tree(tmp_path_factory.mktemp("box") / "tree")


@pytest.fixture
def imported(daemon: Daemon) -> Iterator[None]:
    """Remove what the test imports under te2e/ and nothing else must be left of it."""
    images = daemon.data / "images"
    before = {path.name for path in images.iterdir()}
    yield
    daemon.remove_all(f"{PREFIX}box")
    for row in daemon.json("image", "list"):
        if row["name"].startswith("te2e/"):
            daemon.run("image", "rm", row["name"], "--yes")
    assert {path.name for path in images.iterdir()} == before
    assert left_in_work(daemon) == []


def left_in_work(daemon: Daemon) -> list[str]:
    return [path.name for path in (daemon.data / "images/tmp").iterdir()]


def refused(daemon: Daemon, status: int, code: str, *argv: str) -> str:
    """Run what must fail: with this status and code, a sentence and a hint."""
    done = daemon.run(*argv, check=False)
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert f"code: {code}" in said
    assert "hint: " in said
    return said


def pack(tree: Path, target: Path, option: str) -> Path:
    media.run("tar", "-C", tree, "--owner=0", "--group=0", option, "-cf", target, ".")
    return target


@pytest.mark.kvm
def test_installers_boot_under_bios_and_uefi(daemon: Daemon, machines: Any, tree: Path, tmp_path: Path) -> None:
    iso = media.installer(tmp_path / "Te2e Setup.iso", tree, tmp_path / "scratch")
    bios, uefi = f"{PREFIX}bios", f"{PREFIX}uefi"
    daemon.run("launch", "--iso", str(iso), bios)
    # The file is known by now; an installer can also be named as the image it is.
    daemon.run("launch", "--iso", str(iso), f"{PREFIX}again", "--no-start")
    daemon.run("launch", "--iso", "iso/te2e-setup", uefi, "--engine", "kvm", "--set", "firmware=uefi")
    assert daemon.names()[uefi]["image"] == "iso/te2e-setup"
    assert eventually(lambda: media.BIOS_SAYS.encode() in daemon.run("logs", bios).stdout, 60)
    assert eventually(lambda: media.UEFI_SAYS.encode() in daemon.run("logs", uefi).stdout, 90)
    refused(daemon, 4, "image_in_use", "image", "rm", "iso/te2e-setup", "--yes")
    refused(daemon, 6, "no_form", "launch", "--iso", "iso/te2e-setup", f"{PREFIX}no", "--engine", "lxc")
    refused(daemon, 2, "not_an_installer", "launch", "--iso", IMAGE, f"{PREFIX}no")
    refused(daemon, 3, "file_not_found", "launch", "--iso", "/nowhere.iso", f"{PREFIX}no")
    daemon.run("rm", bios, uefi, f"{PREFIX}again", "--yes", "--force")
    daemon.run("image", "rm", "iso/te2e-setup", "--yes")


def test_list_and_show_tell_everything(daemon: Daemon, machines: dict[str, list[str]]) -> None:
    (row,) = [row for row in daemon.json("image", "list") if row["name"] == IMAGE]
    shown = daemon.json("image", "show", IMAGE)
    # Other daemons' instances come and go.
    assert {**row, "used_by": []} == {**shown, "used_by": []}
    assert set(shown["forms"]) == {"disk", "tree", "oci"}
    assert all(form["size"] > 100 << 20 for form in shown["forms"].values())
    assert shown["size"] >= sum(form["size"] for form in shown["forms"].values())
    assert shown["digest"].startswith("sha256:")
    assert shown["source"] == "built from debian bookworm"
    assert shown["packages"] > 100
    assert {name for names in machines.values() for name in names} <= set(shown["used_by"])
    refused(daemon, 4, "image_in_use", "image", "rm", IMAGE, "--yes")
    said = refused(daemon, 3, "image_not_found", "image", "show", "debain/12")
    assert "Did you mean debian/12?" in said


@pytest.mark.lxc
def test_user_data_in_a_system_container(daemon: Daemon, machines: dict[str, list[str]]) -> None:
    told, untold = machines["lxc"]
    daemon.exec(told, "cloud-init", "status", "--wait")
    assert daemon.exec(told, "cat", "/etc/te2e", "/var/lib/te2e") == "writtenran\n"
    assert daemon.exec(untold, "ls", "/etc/te2e", check=False) == ""
    for name in machines["lxc"]:
        assert daemon.exec(name, "systemctl", "is-system-running", "--wait").strip() == "running"


@pytest.mark.docker
def test_user_data_where_nobody_reads_it(daemon: Daemon, box: Path, tmp_path: Path, imported: None) -> None:
    data = tmp_path / "user-data"
    data.write_text(USER_DATA)
    told = ("--set", f"user-data={data}")
    refused(daemon, 6, "no_cloud_init", "launch", IMAGE, f"{PREFIX}no", "--engine", "docker", *told)
    daemon.run("image", "import", str(pack(box, tmp_path / "box.tar", "-h")), "--name", "te2e/box")
    refused(daemon, 6, "no_cloud_init", "launch", "te2e/box", f"{PREFIX}no", "--engine", "lxc", *told)
    disk = tmp_path / "disk.qcow2"
    media.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "8M")
    daemon.run("image", "import", str(disk), "--name", "te2e/disk")
    refused(daemon, 6, "no_cloud_init", "launch", "te2e/disk", f"{PREFIX}no", "--engine", "kvm", *told)
    refused(daemon, 2, "bad_user_data", "launch", IMAGE, f"{PREFIX}no", "--set", "user-data=/nowhere")
    assert f"{PREFIX}no" not in daemon.names()


@pytest.mark.parametrize("engine", ["lxc", "docker"])
@pytest.mark.parametrize(("suffix", "option"), [("gz", "-z"), ("xz", "-J"), ("zst", "--zstd")])
def test_a_root_tarball_is_launched(
    daemon: Daemon, box: Path, tmp_path: Path, imported: None, suffix: str, option: str, engine: str
) -> None:
    packed = pack(box, tmp_path / f"box.tar.{suffix}", option)
    daemon.run("image", "import", str(packed), "--name", "te2e/box")
    name = f"{PREFIX}box-{suffix}"
    daemon.launch("te2e/box", name, engine)
    assert daemon.exec(name, "sh", "-c", "echo $((6 * 7)); hostname").split() == ["42", name]


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["docker-save", "oci"])
def test_an_oci_archive_is_launched(daemon: Daemon, box: Path, tmp_path: Path, imported: None, kind: str) -> None:
    archive = tmp_path / "box.tar"
    packed = pack(box, tmp_path / "tree.tar", "-h")
    reference = "te2e-source/box:1"
    start = ('CMD ["sleep", "1000"]', "LABEL marker=te2e-inside")
    docker("import", "-c", start[0], "-c", start[1], str(packed), reference)
    try:
        if kind == "oci":
            media.run("skopeo", "copy", "--insecure-policy", f"docker-daemon:{reference}", f"oci-archive:{archive}")
        else:
            docker("save", "-o", str(archive), reference)
    finally:
        docker("rmi", reference)
    before = set(docker("images", "-aq", "--no-trunc").split())
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused(daemon, 2, "bad_archive", "image", "import", str(archive), "--name", "te2e/box", "--format", "oci")
    if kind == "oci":
        # Complete as a tar, but one of its blobs is not what its name says.
        archive.write_bytes(whole.replace(b"te2e-inside", b"te2e-change"))
        refused(daemon, 2, "bad_archive", "image", "import", str(archive), "--name", "te2e/box")
    refused(daemon, 3, "image_not_found", "image", "show", "te2e/box")
    assert set(docker("images", "-aq", "--no-trunc").split()) == before
    archive.write_bytes(whole)
    daemon.run("image", "import", str(archive), "--name", "te2e/box")
    assert set(daemon.json("image", "show", "te2e/box")["forms"]) == {"oci"}
    daemon.launch("te2e/box", f"{PREFIX}box", "auto")
    assert daemon.names()[f"{PREFIX}box"]["engine"] == "docker"
    assert daemon.exec(f"{PREFIX}box", "sh", "-c", "echo $((6 * 7))").strip() == "42"
    refused(daemon, 4, "image_in_use", "image", "rm", "te2e/box", "--yes")
    daemon.run("rm", f"{PREFIX}box", "--yes", "--force")
    daemon.run("image", "rm", "te2e/box", "--yes")
    assert set(docker("images", "-aq", "--no-trunc").split()) == before


@pytest.mark.docker
def test_a_replaced_image_leaves_nothing_in_docker(daemon: Daemon, box: Path, tmp_path: Path, imported: None) -> None:
    def ids() -> set[str]:
        return set(docker("images", "-aq", "--no-trunc", "--filter", "label=triune.image=te2e/box").split())

    name = f"{PREFIX}box"
    assert ids() == set()
    for number in (1, 2, 3):
        (box / "etc/number").write_text(f"{number}\n")
        packed = pack(box, tmp_path / "box.tar", "-h")
        daemon.run("image", "import", str(packed), "--name", "te2e/box", "--replace")
        if number < 3:
            # While a container runs from it, it stays; the next one goes with the replacing.
            daemon.launch("te2e/box", name, "docker")
            assert daemon.exec(name, "cat", "/etc/number").strip() == str(number)
            daemon.run("rm", name, "--yes", "--force")
            assert len(ids()) == 1
    assert len(ids()) == 0
    daemon.launch("te2e/box", name, "docker")
    (box / "etc/number").write_text("4\n")
    daemon.run("image", "import", str(pack(box, tmp_path / "box.tar", "-h")), "--name", "te2e/box", "--replace")
    assert len(ids()) == 1
    assert daemon.exec(name, "cat", "/etc/number").strip() == "3"
    refused(daemon, 4, "image_in_use", "image", "rm", "te2e/box", "--yes")
    daemon.run("rm", name, "--yes", "--force")
    daemon.run("image", "rm", "te2e/box", "--yes")
    assert ids() == set()


def test_disks_are_imported_or_refused(daemon: Daemon, tmp_path: Path, imported: None) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"te2e" * 2048 + bytes(8 << 20))
    digest = subprocess.run(["sha256sum", raw], capture_output=True, text=True, check=True).stdout.split()[0]
    bring = ("image", "import")
    refused(daemon, 2, "format_undeclared", *bring, str(raw), "--name", "te2e/raw")
    refused(daemon, 2, "checksum_mismatch", *bring, str(raw), "--name", "te2e/raw", "--format", "raw",
            "--sha256", "0" * 64)  # fmt: skip
    refused(daemon, 2, "too_large", *bring, str(raw), "--name", "te2e/raw", "--format", "raw", "--max-size", "1MiB")
    daemon.run(*bring, str(raw), "--name", "te2e/raw", "--format", "raw", "--sha256", digest, "--upload")
    assert daemon.json("image", "show", "te2e/raw")["sha256"] == digest
    refused(daemon, 4, "image_exists", *bring, str(raw), "--name", "te2e/raw", "--format", "raw")
    for form in ("qcow2", "vmdk"):
        disk = tmp_path / f"disk.{form}"
        media.run("qemu-img", "convert", "-f", "raw", "-O", form, raw, disk)
        daemon.run(*bring, str(disk), "--name", f"te2e/{form}", "--format", form)
        kept = daemon.json("image", "show", f"te2e/{form}")["forms"]["disk"]
        media.run("qemu-img", "compare", "-f", kept["format"], "-F", "raw", kept["path"], raw)
        other = "vmdk" if form == "qcow2" else "qcow2"
        refused(daemon, 2, "format_mismatch", *bring, str(disk), "--name", "te2e/lie", "--format", other)
        refused(daemon, 2, "format_mismatch", *bring, str(disk), "--name", "te2e/lie", "--format", "raw")
        cut = tmp_path / f"cut.{form}"
        cut.write_bytes(disk.read_bytes()[:70000])
        refused(daemon, 2, "corrupt_image", *bring, str(cut), "--name", "te2e/cut", "--format", form)
    backed = tmp_path / "backed.qcow2"
    media.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", backed, "1M")
    refused(daemon, 5, "backing_file_refused", *bring, str(backed), "--name", "te2e/backed")
    for size in (300, 1 << 20):
        (tmp_path / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(size))
        done = daemon.run(*bring, str(tmp_path / "cut.tar.gz"), "--name", "te2e/cut", check=False)
        assert done.returncode == 2, done.stderr
    names = {row["name"] for row in daemon.json("image", "list")}
    assert not names & {"te2e/lie", "te2e/cut", "te2e/backed"}
    assert list((daemon.data / "uploads").iterdir()) == []


@pytest.mark.docker
def test_registries(daemon: Daemon, box: Path, tmp_path: Path) -> None:
    if not shutil.which("docker-registry"):
        pytest.skip("no registry server: apt install docker-registry")
    packed = pack(box, tmp_path / "tree.tar", "-h")
    opened, at = serve(tmp_path, tmp_path / "registry", private=False)
    guarded, private = serve(tmp_path, tmp_path / "registry", private=True)
    try:
        docker("import", "-c", 'CMD ["sleep", "1000"]', str(packed), f"{at}/te2e/box:1")
        docker("push", "-q", f"{at}/te2e/box:1")
        docker("rmi", f"{at}/te2e/box:1")
        refused(daemon, 3, "image_not_found", "image", "pull", f"docker:{at}/te2e/box:2")
        daemon.run("image", "pull", f"docker:{at}/te2e/box:1")
        shown = daemon.json("image", "show", f"docker:{at}/te2e/box:1")
        assert list(shown["forms"]) == ["oci"]
        daemon.run("image", "rm", f"docker:{at}/te2e/box:1", "--yes")
        # A launch pulls what is not here.
        daemon.launch(f"docker:{at}/te2e/box:1", f"{PREFIX}pulled", "auto")
        assert daemon.exec(f"{PREFIX}pulled", "hostname").strip() == f"{PREFIX}pulled"
        daemon.run("rm", f"{PREFIX}pulled", "--yes", "--force")
        daemon.run("image", "rm", f"docker:{at}/te2e/box:1", "--yes")
        crashed(daemon, "image-pull:pull", "image", "pull", f"docker:{at}/te2e/box:1")
        assert not [row for row in daemon.json("image", "list") if "te2e" in row["name"]]
        from_private(daemon, private)
    finally:
        for process in (opened, guarded):
            process.terminate()
            process.wait(PATIENCE)
    refused(daemon, 7, "registry_unreachable", "image", "pull", f"docker:{at}/te2e/box:1")
    refused(daemon, 7, "registry_unreachable", "launch", f"docker:{at}/te2e/box:1", f"{PREFIX}pulled")
    assert f"{PREFIX}pulled" not in daemon.names()


def from_private(daemon: Daemon, at: str) -> None:
    pull = ("image", "pull", f"docker:{at}/te2e/box:1")
    login = ("--username", GOOD.username, "--password-stdin")
    refused(daemon, 5, "registry_denied", *pull)
    wrong = daemon.run(*pull, *login, stdin=b"wrong\n", check=False)
    assert wrong.returncode == 5, wrong.stderr
    refused(daemon, 5, "registry_denied", "launch", f"docker:{at}/te2e/box:1", f"{PREFIX}pulled")
    daemon.run(*pull, *login, stdin=GOOD.password.encode() + b"\n")
    # The password is kept nowhere.
    done = subprocess.run(["grep", "-rlF", GOOD.password, daemon.data / "triune.db", daemon.log], check=False)
    assert done.returncode == 1
    daemon.run("image", "rm", f"docker:{at}/te2e/box:1", "--yes")


def crashed(daemon: Daemon, point: str, *command: str) -> None:
    """Run the command against a daemon that dies at this point, then start it again as usual."""
    daemon.crash(point)
    assert daemon.run(*command, check=False).returncode != 0
    daemon.died()
    daemon.start()


def test_an_import_killed_at_every_step(daemon: Daemon, tmp_path: Path, imported: None) -> None:
    disk = tmp_path / "disk.qcow2"
    media.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "8M")
    command = ("image", "import", str(disk), "--name", "te2e/disk")
    daemon.run(*command)
    operation = next(row for row in daemon.json("ops", "list") if row["kind"] == "image-import")
    points = [f"image-import:{step['name']}" for step in operation["steps"]]
    assert len(points) >= 3
    daemon.run("image", "rm", "te2e/disk", "--yes")
    before = {path.name for path in (daemon.data / "images").iterdir()}
    for point in points:
        crashed(daemon, point, *command)
        assert {path.name for path in (daemon.data / "images").iterdir()} == before, point
        assert left_in_work(daemon) == [], point
    daemon.run(*command)


def building(daemon: Daemon) -> subprocess.Popen[bytes]:
    """Begin a build of another release, and wait until packages are being unpacked."""
    client = subprocess.Popen(
        [TRIUNE, "image", "build", "debian/13"], env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    work = daemon.data / "images/tmp"
    assert eventually(lambda: list(work.glob("build-*/private/tree/var/lib/dpkg")), 60), daemon.tail()
    return client


def workers(daemon: Daemon) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{daemon.data}/images/tmp" in words:
            found.append(words)
    return found


def test_a_build_interrupted_by_the_user(daemon: Daemon) -> None:
    client = building(daemon)
    client.send_signal(signal.SIGINT)
    said, _ = client.communicate(timeout=30)
    assert client.returncode == 130, said
    assert eventually(lambda: left_in_work(daemon) == [] and not workers(daemon), 20)
    (operation,) = [row for row in daemon.json("ops", "list") if row["resource"] == "images/debian/13"][:1]
    assert operation["state"] == "cancelled"
    refused(daemon, 3, "image_not_found", "image", "show", "debian/13")


def test_a_build_whose_daemon_is_killed(daemon: Daemon) -> None:
    client = building(daemon)
    daemon.kill()
    client.communicate(timeout=30)
    assert client.returncode == 7
    assert eventually(lambda: not workers(daemon), 10)
    assert left_in_work(daemon)
    daemon.start()
    assert left_in_work(daemon) == []
    (operation,) = [row for row in daemon.json("ops", "list") if row["resource"] == "images/debian/13"][:1]
    assert operation["state"] == "interrupted"
    assert not [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(daemon.data / "images/tmp") in line
    ]


@pytest.mark.kvm
def test_user_data_in_a_virtual_machine(daemon: Daemon, machines: dict[str, list[str]]) -> None:
    told = machines["kvm"][0]

    def written() -> bool:
        return daemon.exec(told, "cat", "/etc/te2e", "/var/lib/te2e", check=False) == "writtenran\n"

    assert eventually(written, 240), daemon.run("logs", told).stdout[-2000:]
    assert int(daemon.exec(told, "df", "--output=size", "-B1", "/").split()[1]) > 11 << 30


@pytest.mark.parametrize("engine", ["lxc", "kvm", "docker"])
def test_every_instance_is_itself(daemon: Daemon, machines: dict[str, list[str]], tree: Path, engine: str) -> None:
    names = machines[engine]
    assert not list((tree / "etc/ssh").glob("ssh_host_*"))
    assert (tree / "etc/machine-id").read_bytes() == b""
    if engine == "docker":
        # Nothing starts a server of its own in an application container; who does makes its keys.
        for name in names:
            daemon.exec(name, "ssh-keygen", "-A")
    told = [eventually(lambda name=name: identity(daemon, name), 120) for name in names]
    assert [found[0] for found in told] == names
    ids, keys = {found[1] for found in told}, {found[2] for found in told}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)
    assert len(keys) == 2


def identity(daemon: Daemon, name: str) -> list[str] | None:
    """Host name, machine id and host key; None before there is a key."""
    done = daemon.run("exec", name, "--", "sh", "-c", INSIDE, check=False)
    lines = done.stdout.decode().splitlines()
    return lines[:3] if done.returncode == 0 and len(lines) >= 3 else None


def test_a_build_with_options(daemon: Daemon, tree: Path) -> None:
    shown = daemon.json("image", "show", IMAGE)
    manifest = json.loads((tree.parents[1] / "manifest.json").read_text())
    assert {"cloud-init", "openssh-server"} <= set(manifest["packages"])
    assert shown["forms"]["disk"]["cloud_init"] is True
    # The same request is answered with what there is, in no time.
    with Awake() as awake:
        daemon.run("image", "build", IMAGE, *PACKAGES)
    assert awake.seconds < 5
    assert daemon.json("image", "show", IMAGE)["digest"] == shown["digest"]
    refused(daemon, 3, "unknown_release", "image", "build", "debian/99")
    refused(daemon, 2, "bad_package", "image", "build", IMAGE, "--package", "x;y")
    refused(daemon, 2, "bad_size", "image", "build", IMAGE, "--size", "10MiB")
    said = refused(daemon, 1, "bootstrap_failed", "image", "build", IMAGE, "--package", "no-such-package")
    assert "no-such-package" in said
    assert left_in_work(daemon) == []
    assert SHARED.is_dir()
