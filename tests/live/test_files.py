"""`triune cp` on the real engines: everything both ways, and guests that try to lead it astray."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon
from tests.live.kvm_fixtures import put_small
from tests.live.system_fixtures import ENGINES, IMAGE, built_image, data_folder

pytestmark = [pytest.mark.live]

MIB = 1 << 20
NAMES = {engine: f"tfil-{engine}" for engine in ENGINES}
by_engine = pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=getattr(pytest.mark, engine)) for engine in ENGINES]
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    candidates = ("10.121.0.0/16", "10.122.0.0/16")
    where = {"bridge": "tfil0", "table": "triune_tfil", "domain": "tfil.internal", "candidates": candidates}
    with Daemon(data_folder("data-files"), **where) as daemon:  # type: ignore[arg-type]
        built_image(daemon)
        daemon.remove_all("tfil-")
        try:
            daemon.launch(IMAGE, NAMES["lxc"], "lxc")
            daemon.launch(IMAGE, NAMES["docker"], "docker", command=("sleep", "infinity"))
            daemon.launch(put_small(daemon.data / "images"), NAMES["kvm"], "kvm", "--network", "none")
            yield daemon
        finally:
            daemon.remove_all("tfil-")
        daemon.stop()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub/deep").mkdir(parents=True)
    (top / "sub/file").write_bytes(os.urandom(3 * MIB + 17))
    (top / "sub/file").chmod(0o640)
    (top / "link").symlink_to("/etc/passwd")
    os.link(top / "sub/file", top / "hard")
    with (top / "holes").open("wb") as file:
        file.seek(50 * MIB)
        file.write(b"x" * 10_000)
        file.truncate(300 * MIB)
    (top / "ünicode and blank").write_text("z")
    os.utime(top / "sub/file", (1_000_000, 1_000_000))
    (top / "sub").chmod(0o750)
    return top


def listing(top: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        what = (
            str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).digest() if plain else ""
        )
        when = int(info.st_mtime) if plain else 0
        found.append((str(path.relative_to(top)), info.st_mode, when, info.st_nlink if plain else 0, what))
    return found


@by_engine
def test_a_tree_goes_in_and_comes_out_the_same(daemon: Daemon, tree: Path, engine: str, tmp_path: Path) -> None:
    name = NAMES[engine]
    daemon.exec(name, "rm", "-rf", "/srv/in")
    daemon.exec(name, "mkdir", "/srv/in")
    daemon.run("cp", str(tree), f"{name}:/srv/in")
    assert daemon.exec(name, "stat", "-c", "%a %u:%g %Y", "/srv/in/tree/sub/file").strip() == "640 0:0 1000000"
    assert daemon.exec(name, "readlink", "/srv/in/tree/link").strip() == "/etc/passwd"
    if engine != "docker":  # Docker writes holes as zeros
        assert int(daemon.exec(name, "stat", "-c", "%b", "/srv/in/tree/holes")) * 512 < MIB
    out = tmp_path / "out"
    out.mkdir()
    daemon.run("cp", f"{name}:/srv/in/tree", str(out))
    assert listing(out / "tree") == listing(tree)
    assert (out / "tree/holes").stat().st_blocks * 512 < MIB, "holes stay holes"


@by_engine
def test_where_things_land(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    """As cp and docker cp do: into a folder, under a new name, contents alone."""
    name = NAMES[engine]
    daemon.exec(name, "rm", "-rf", "/srv/land")
    daemon.exec(name, "mkdir", "-p", "/srv/land/dir")
    source = tmp_path / "one"
    source.write_text("one")
    daemon.run("cp", str(source), f"{name}:/srv/land/dir")
    daemon.run("cp", str(source), f"{name}:/srv/land/new")
    (tmp_path / "many").mkdir()
    (tmp_path / "many/a").write_text("a")
    daemon.run("cp", f"{tmp_path}/many/.", f"{name}:/srv/land/dir")
    daemon.run("cp", f"{tmp_path}/many/.", f"{name}:/srv/land/made")
    found = daemon.exec(name, "sh", "-c", "cd /srv/land; find . -type f | sort").split()
    assert found == ["./dir/a", "./dir/one", "./made/a", "./new"]
    daemon.run("cp", f"{name}:/srv/land/new", str(tmp_path / "renamed"))
    assert (tmp_path / "renamed").read_text() == "one"
    daemon.run("cp", f"{name}:/srv/land/dir/.", str(tmp_path / "contents"))
    assert sorted(path.name for path in (tmp_path / "contents").iterdir()) == ["a", "one"]
    done = daemon.run("cp", f"{name}:/srv/land/dir", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert sorted(member.name for member in tar) == ["dir", "dir/a", "dir/one"]


@by_engine
def test_what_is_wrong_is_said(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    name = NAMES[engine]
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for source, target, code in (
        (f"{name}:/no/such", str(tmp_path), 3),
        (f"{name}:/etc/passwd", str(tmp_path / "no/such"), 3),
        (str(tmp_path / "no"), f"{name}:/srv", 3),
        (str(tmp_path / "file"), f"{name}:/no/such/", 3),
        (str(tmp_path / "file"), f"{name}:relative", 2),
        (str(tmp_path / "folder"), f"{name}:/etc/passwd", 4),
        (f"{name}:/etc", str(tmp_path / "file"), 4),
        ("nosuch:/etc/passwd", str(tmp_path), 3),
        (f"{name}:/etc/passwd", f"{name}:/tmp", 2),
    ):
        done = daemon.run("cp", source, target, check=False)
        assert done.returncode == code, (source, target, done.stderr)
        assert b"error:" in done.stderr and b"Traceback" not in done.stderr
        assert code == 2 or b"hint:" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@by_engine
def test_links_of_a_hostile_guest_lead_nowhere(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    """A link on the way in is followed inside the instance; one on the way out is copied as a link."""
    name = NAMES[engine]
    secret = Path(f"/root/tfil-secret-{engine}")
    secret.write_text("the host's")
    try:
        daemon.exec(name, "sh", "-c", f"rm -rf /srv/evil; mkdir /srv/evil; ln -s {secret} /srv/evil/leak; "
                    "ln -s / /srv/evil/up; ln -s ../../../../../../root /srv/evil/root")  # fmt: skip
        daemon.run("cp", f"{name}:/srv/evil", str(tmp_path))
        assert (tmp_path / "evil/leak").is_symlink()
        through = daemon.run("cp", f"{name}:/srv/evil/up{secret}", str(tmp_path / "got"), check=False)
        assert through.returncode == 3, "there is no such file in the instance"
        assert not (tmp_path / "got").exists()
        (tmp_path / "planted").write_text("planted")
        daemon.run("cp", str(tmp_path / "planted"), f"{name}:/srv/evil/root/")
        assert not Path("/root/planted").exists(), "it went into the instance's own /root"
        assert daemon.exec(name, "cat", "/root/planted") == "planted"
    finally:
        secret.unlink()


@by_engine
def test_links_swapped_while_it_reads_and_writes(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    """The guest swaps a folder for a link to the host's names all the time; nothing of the host is read or written."""
    name = NAMES[engine]
    marker = Path(f"/root/tfil-marker-{engine}")
    marker.mkdir(exist_ok=True)
    (marker / "file").write_text("the host's")
    swap = (
        f"mkdir -p /srv/race/real; echo guest > /srv/race/real/file; cd /srv/race; end=$(($(date +%s)+6)); "
        f"while [ $(date +%s) -lt $end ]; do ln -sfn {marker} x; rm -f x; cp -r real x; rm -rf x; done"
    )
    racing = subprocess.Popen([*_triune(), "exec", name, "--", "sh", "-c", swap], env=daemon.env)
    try:
        (tmp_path / "in").mkdir()
        (tmp_path / "in/evil").write_text("written")
        for number in range(6):
            out = tmp_path / f"out{number}"
            out.mkdir()
            daemon.run("cp", f"{name}:/srv/race", str(out), check=False)
            for path in out.rglob("*"):
                assert path.is_symlink() or path.is_dir() or path.read_text() != "the host's"
            daemon.run("cp", f"{tmp_path}/in/.", f"{name}:/srv/race/x", check=False)
        assert sorted(path.name for path in marker.iterdir()) == ["file"]
        assert (marker / "file").read_text() == "the host's"
    finally:
        racing.wait(60)
        for path in marker.iterdir():
            path.unlink()
        marker.rmdir()


@pytest.mark.lxc
@pytest.mark.docker
@pytest.mark.parametrize("engine", ["lxc", "docker"])
def test_a_stopped_container_too(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    name = NAMES[engine]
    daemon.run("stop", name, "--force")
    try:
        (tmp_path / "file").write_text("while it slept")
        daemon.run("cp", str(tmp_path / "file"), f"{name}:/srv/slept")
        daemon.run("cp", f"{name}:/srv/slept", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "while it slept"
    finally:
        daemon.run("start", name)
    assert daemon.exec(name, "stat", "-c", "%u:%g", "/srv/slept").strip() == "0:0"
    assert daemon.exec(name, "cat", "/srv/slept") == "while it slept"


@pytest.mark.lxc
def test_into_id_mapped_folders(daemon: Daemon, tmp_path: Path) -> None:
    """A volume, and a whole root on btrfs: there the host's root is nobody."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("mapped")
    os.chown(tmp_path / "tree/sub/file", 1000, 1000)
    name = "tfil-mapped"
    daemon.run("pool", "create", "tfil-pool", "--driver", "btrfs", "--size", "1GiB")
    daemon.run("volume", "create", "tfil-vol")
    try:
        daemon.launch(IMAGE, name, "lxc", "--pool", "tfil-pool", "--volume", "tfil-vol:/vol")
        for state in ("running", "stopped"):
            for where in ("/srv", "/vol") if state == "running" else ("/srv",):
                daemon.run("cp", "-a", str(tmp_path / "tree"), f"{name}:{where}/{state}")
                daemon.run("cp", "-a", f"{name}:{where}/{state}", str(tmp_path / f"{state}{where.strip('/')}"))
                back = tmp_path / f"{state}{where.strip('/')}/sub/file"
                assert (back.read_text(), back.stat().st_uid) == ("mapped", 1000)
            if state == "running":
                assert daemon.exec(name, "stat", "-c", "%u %U", "/srv/running/sub/file").split()[0] == "1000"
                assert daemon.exec(name, "stat", "-c", "%u", "/vol/running").strip() == "0"
                daemon.run("stop", name, "--force")
    finally:
        daemon.run("rm", name, "--force", "--yes", check=False)
        daemon.run("volume", "rm", "tfil-vol", "--yes", check=False)
        daemon.run("pool", "rm", "tfil-pool", "--yes", check=False)


@by_engine
def test_owners_are_kept_when_asked(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    name = NAMES[engine]
    (tmp_path / "owned").write_text("x")
    os.chown(tmp_path / "owned", 1234, 4321)
    daemon.run("cp", "--archive", str(tmp_path / "owned"), f"{name}:/srv/owned")
    assert daemon.exec(name, "stat", "-c", "%u:%g", "/srv/owned").strip() == "1234:4321"
    daemon.run("cp", "-a", f"{name}:/srv/owned", str(tmp_path / "back"))
    assert ((tmp_path / "back").stat().st_uid, (tmp_path / "back").stat().st_gid) == (1234, 4321)
    daemon.exec(name, "chmod", "4755", "/srv/owned")
    daemon.run("cp", f"{name}:/srv/owned", str(tmp_path / "plain"))
    assert (tmp_path / "plain").stat().st_mode & 0o7777 == 0o755, "a guest's setuid bit is no gift"
    assert (tmp_path / "plain").stat().st_uid == os.geteuid()


@by_engine
def test_mounted_it_is_a_folder_here(daemon: Daemon, engine: str, tmp_path: Path) -> None:
    name = NAMES[engine]
    folder = tmp_path / "mounted"
    folder.mkdir()
    secret = Path(f"/root/tfil-secret-{engine}")
    secret.write_text("the host's")
    daemon.exec(
        name,
        *("sh", "-c"),
        f"rm -rf /srv/shown; mkdir /srv/shown; ln -s {secret} /srv/shown/leak; "
        "ln -s ../../etc/passwd /srv/shown/users; head -c 3000000 /dev/zero | tr '\\0' x > /srv/shown/big",
    )
    daemon.run("mount", f"{name}:/srv/shown", str(folder))
    try:
        assert (folder / "big").read_bytes() == b"x" * 3_000_000
        (folder / "made").write_text("from here")
        assert daemon.exec(name, "cat", "/srv/shown/made") == "from here"
        assert (folder / "users").read_text() == daemon.exec(name, "cat", "/etc/passwd")
        assert not (folder / "leak").exists() or "the host" not in (folder / "leak").read_text()
        assert daemon.run("mount", name, str(folder), check=False).returncode == 4
    finally:
        daemon.run("umount", str(folder))
        secret.unlink()
    assert not list(folder.iterdir())
    left = daemon.exec(name, "sh", "-c", "sleep 1; ls /tmp; cat /proc/*/cmdline | tr '\\0' ' '")
    assert "triune-sftp" not in left.replace("sh -c sleep 1", "")
    assert daemon.run("umount", str(folder), check=False).returncode == 1


def _triune() -> list[str]:
    from tests.live.daemon import TRIUNE

    return [str(TRIUNE)]
