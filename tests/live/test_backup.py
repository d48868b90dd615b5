"""Backups of real instances: made while they run, restored and compared, killed, damaged, locked out."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import nasty_tree
from tests.live.backup_fixtures import IMAGE, PREFIX, Place, pid_of_container, place, stay_behind
from tests.live.daemon import TRIUNE
from tests.live.kvm_fixtures import put_small
from tests.live.lxc_places import inside, mark_of
from tests.patience import PATIENCE
from triune.host import loop

__all__ = ["place"]
pytestmark = [pytest.mark.live]

LXC, DOCKER = f"{PREFIX}lxc", f"{PREFIX}docker"
SCRIPT = Path(nasty_tree.__file__).read_text()
# A socket has no content to keep; restic makes hard links of symbolic links links of their own.
LEFT_OUT = ("nasty/socket",)


def digest(found: dict[str, Any]) -> dict[str, Any]:
    """What a backup promises to bring back."""
    kept = {path: dict(facts) for path, facts in found.items() if path not in LEFT_OUT}
    for facts in kept.values():
        if facts["type"] == "l":
            facts.pop("same", None)
    return kept


def lxc_nasty(name: str, what: str) -> str:
    """Run the script on a running container's /srv, as its root."""
    ids = mark_of(name).id_map
    assert ids is not None
    code = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return inside(ids, code, nasty_tree.__file__, what, Path("/var/lib/lxc") / name / "rootfs/srv")


def lxc_digest(name: str) -> dict[str, Any]:
    """Of /srv, with ids as inside."""
    return digest(json.loads(lxc_nasty(name, "digest")))


def docker_digest(name: str, folder: str) -> dict[str, Any]:
    """Of a folder inside."""
    root = Path(f"/proc/{pid_of_container(name)}/root{folder}")
    done = subprocess.run(
        [sys.executable, "-", "digest", root], input=SCRIPT, capture_output=True, text=True, check=True
    )
    return digest(json.loads(done.stdout))


@pytest.fixture(scope="module")
def container(place: Place) -> Iterator[str]:
    """A running system container with a nasty tree in it."""
    place.daemon.launch(IMAGE, LXC, "lxc")
    lxc_nasty(LXC, "make")
    yield LXC


@pytest.fixture(scope="module")
def app(place: Place) -> Iterator[str]:
    """A running app container with a named and an anonymous volume, nasty trees in a volume and in its layer."""
    volume = f"{PREFIX}volume"
    subprocess.run(["docker", "volume", "rm", "-f", volume, f"{DOCKER}2-{volume}"], capture_output=True, check=False)
    place.daemon.launch(IMAGE, f"{PREFIX}seed", "docker", command=("sleep", "infinity"))
    image = _image_of(f"{PREFIX}seed")
    argv = ["docker", "run", "-d", "--name", DOCKER, "-v", f"{volume}:/srv/volume", "-v", "/srv/anonymous", "-e", "A=b"]
    subprocess.run([*argv, image, "sleep", "infinity"], capture_output=True, check=True)
    root = Path(f"/proc/{pid_of_container(DOCKER)}/root")
    for folder in (root / "srv/volume", root / "srv/layer"):
        folder.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-", "make", folder], input=SCRIPT, text=True, check=True, capture_output=True)
    (root / "srv/anonymous/file").write_text("anonymous\n")
    subprocess.run(["docker", "exec", DOCKER, "rm", "-r", "/usr/share/doc"], check=True)
    yield DOCKER
    for name in (DOCKER, f"{DOCKER}2"):
        subprocess.run(["docker", "rm", "-fv", name], capture_output=True, check=False)
    subprocess.run(["docker", "volume", "rm", "-f", volume, f"{DOCKER}2-{volume}"], capture_output=True, check=False)


def _image_of(name: str) -> str:
    argv = ["docker", "inspect", "--format", "{{.Image}}", name]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.lxc
def test_a_system_container_comes_back_as_it_was(place: Place, container: str, tmp_path: Path) -> None:
    place.daemon.exec(container, "truncate", "-s", "50M", "/srv/nasty/hollow")
    before = lxc_digest(container)
    assert len(before) > 40
    empty = place.size()
    first = place.backup(container)
    once = place.size()
    second = place.backup(container)
    twice = place.size()
    assert first["consistency"] == "frozen"
    assert twice - once < (once - empty) / 100
    assert stay_behind(place) == []
    # It still runs, and the backup is not touched by what it does next.
    place.daemon.exec(container, "rm", "-r", "/srv/nasty", "/etc/hostname")
    place.restore(second["backup"], f"{container}2", "--start")
    assert lxc_digest(f"{container}2") == before
    place.daemon.run("exec", f"{container}2", "--", "systemctl", "is-system-running", "--wait", check=False)
    assert place.daemon.exec(f"{container}2", "cat", "/etc/machine-id") == place.daemon.exec(
        container, "cat", "/etc/machine-id"
    )
    assert place.cat(container, "/srv/nasty/plain") == b"plain\n"
    assert place.cat(second["backup"], "/srv/nasty/binary") == bytes(range(256)) * 1000
    (out := tmp_path / "out").mkdir()
    for path in ("/srv/nasty", "/srv/nasty/hollow"):
        place.daemon.run("backup", "extract", container, path, "--to", str(out), "--repo", str(place.repository))
    for hollow in (out / "nasty/hollow", out / "hollow"):
        assert (hollow.stat().st_size, hollow.stat().st_blocks) == (50 << 20, 0)
    place.daemon.run("rm", f"{container}2", "--force", "--yes")


@pytest.mark.docker
def test_an_app_container_comes_back_with_its_volumes(place: Place, app: str, tmp_path: Path) -> None:
    before = {folder: docker_digest(app, folder) for folder in ("/srv/volume", "/srv/layer")}
    made = place.backup(app)
    again = place.backup(app)
    assert made["consistency"] == "frozen"
    assert again["added"] < made["added"] / 100
    assert stay_behind(place) == []
    place.restore(app, f"{app}2", "--start")
    assert {folder: docker_digest(f"{app}2", folder) for folder in before} == before
    told = place.daemon.exec(
        f"{app}2", "sh", "-c", "echo $A; cat /srv/anonymous/file; ls /usr/share | grep -c ^doc$ || true"
    )
    assert told.split() == ["b", "anonymous", "0"]
    row = place.daemon.names()[f"{app}2"]
    assert (row["origin"], row["engine"]) == ("managed", "docker")
    # Other volumes than the original's, which go on as they were.
    assert place.cat(app, "/srv/volume/nasty/plain") == b"plain\n"
    repository = str(place.repository)
    place.daemon.run("backup", "extract", app, "/srv/layer/nasty", "--to", str(tmp_path), "--repo", repository)
    done = subprocess.run(
        [sys.executable, "-", "digest", tmp_path], input=SCRIPT, capture_output=True, text=True, check=True
    )
    assert digest(json.loads(done.stdout)).keys() == before["/srv/layer"].keys()
    code, said = place.fails("extract", app, "/srv/layer/nasty", "--to", str(tmp_path), "--repo", repository)
    assert (code, "already" in said) == (4, True)


@pytest.mark.docker
def test_a_volume_of_a_pool_comes_back_as_another(place: Place) -> None:
    name, volume = f"{PREFIX}pool", f"{PREFIX}pv"
    for old in (volume, f"{name}2-{volume}"):
        place.daemon.run("volume", "rm", old, "--yes", check=False)
    place.daemon.run("volume", "create", volume)
    place.daemon.launch(IMAGE, name, "docker", "--volume", f"{volume}:/data", command=("sleep", "infinity"))
    place.daemon.exec(name, "sh", "-c", "echo pooled >/data/file; chown 7:8 /data/file; chmod 2750 /data")
    place.backup(name)
    place.restore(name, f"{name}2", "--start")
    told = place.daemon.exec(f"{name}2", "sh", "-c", "stat -c '%u %g' /data/file; stat -c %a /data; cat /data/file")
    assert told.split() == ["7", "8", "2750", "pooled"]
    place.daemon.exec(f"{name}2", "sh", "-c", "echo other >/data/file")
    assert place.daemon.exec(name, "cat", "/data/file") == "pooled\n"
    assert place.cat(name, "/data/file") == b"pooled\n"
    place.daemon.run("rm", name, f"{name}2", "--force", "--yes")
    for old in (volume, f"{name}2-{volume}"):
        place.daemon.run("volume", "rm", old, "--yes")


@pytest.mark.docker
def test_an_image_that_the_host_lost_comes_out_of_the_repository(place: Place) -> None:
    """Of a build of one's own, which no registry has."""
    name, tag = f"{PREFIX}own", "tbkp-own:1"
    place.daemon.launch(IMAGE, f"{PREFIX}seed2", "docker", command=("sleep", "infinity"))
    build = f"FROM {_image_of(f'{PREFIX}seed2')}\nRUN echo own >/own\n"
    subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=build.encode(), check=True, capture_output=True)
    subprocess.run(["docker", "run", "-d", "--name", name, tag, "sleep", "infinity"], check=True, capture_output=True)
    image = _image_of(name)
    place.backup(name)
    subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)
    subprocess.run(["docker", "rmi", "-f", tag], check=True, capture_output=True)
    try:
        place.restore(name, name, "--start")
        assert place.daemon.exec(name, "cat", "/own") == "own\n"
        assert _image_of(name) == image
    finally:
        place.daemon.run("rm", name, "--force", "--yes", check=False)
        subprocess.run(["docker", "rmi", "-f", tag], check=False, capture_output=True)


@pytest.mark.lxc
def test_killed_at_any_moment_the_repository_stays_good(place: Place, container: str) -> None:
    chance = random.Random(7)
    before = len(place.backups(container))
    for turn in range(4):
        place.daemon.exec(container, "sh", "-c", "head -c 30000000 /dev/urandom >/srv/noise")
        argv = [TRIUNE, "backup", "create", container, "--repo", str(place.repository)]
        command = subprocess.Popen(argv, env=place.daemon.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3 + chance.random() * 4)
        if turn % 2:
            place.daemon.kill()
            command.wait(60)
            time.sleep(0.5)
            place.daemon.start()
        else:
            for pid in _restics(place):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            command.wait(120)
        assert stay_behind(place) == []
    place.backup(container)
    code, report = place.verify()
    assert (code, report["ok"]) == (0, True), report
    assert before < len(place.backups(container)) <= before + 5
    assert place.daemon.names()[container]["state"] == "running"


def _restics(place: Place) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"restic" and os.fsencode(place.repository) in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.lxc
def test_damage_is_named_and_everything_else_comes_back(place: Place, container: str, tmp_path: Path) -> None:
    whole = place.backup(container)
    place.daemon.exec(container, "sh", "-c", "head -c 3000000 /dev/urandom >/srv/unlucky")
    known = set(_packs(place.repository))
    hurt = place.backup(container)
    (pack, *_) = sorted(set(_packs(place.repository)) - known, key=lambda path: -path.stat().st_size)
    saved = pack.read_bytes()
    try:
        pack.chmod(0o600)
        with pack.open("r+b") as file:
            file.seek(len(saved) // 2)
            file.write(bytes(byte ^ 255 for byte in saved[len(saved) // 2 :][:64]))
        code, report = place.verify()
        assert (code, report["ok"]) == (1, False)
        named = {(entry["backup"], name) for entry in report["damaged"] for name in entry["files"]}
        assert named == {(hurt["backup"], "root:/srv/unlucky")}
        assert all(len(entry["chunk"]) == 64 for entry in report["damaged"])
        place.restore(whole["backup"], f"{PREFIX}whole")
        repository = str(place.repository)
        code, said = place.fails("restore", hurt["backup"], "--name", f"{PREFIX}hurt", "--repo", repository)
        assert (code, "/srv/unlucky" in said, "--skip-damaged" in said) == (1, True, True)
        assert f"{PREFIX}hurt" not in place.daemon.names()
        place.restore(hurt["backup"], f"{PREFIX}hurt", "--skip-damaged", "--start")
        assert place.daemon.exec(f"{PREFIX}hurt", "cat", "/etc/debian_version")
    finally:
        pack.write_bytes(saved)
        place.daemon.run("rm", f"{PREFIX}whole", f"{PREFIX}hurt", "--force", "--yes", check=False)
    assert place.verify()[0] == 0


def _packs(repository: Path) -> list[Path]:
    return [path for path in (repository / "data").rglob("*") if path.is_file()]


@pytest.mark.docker
def test_what_is_wrong_with_a_repository_is_told(place: Place, app: str, tmp_path: Path) -> None:
    place.backup(app)
    wrong = tmp_path / "key"
    wrong.write_text("not it\n")
    repository = str(place.repository)
    code, said = place.fails("list", "--repo", repository, "--password-file", str(wrong))
    assert (code, "wrong_key" in said) == (5, True)
    code, said = place.fails("create", app, "--repo", repository, "--password-file", str(wrong))
    assert (code, "wrong_key" in said) == (5, True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README").write_text("This is a Borg Backup repository.")
    (tmp_path / "other/config").write_text("[repository]\nversion = 1\n")
    code, said = place.fails("create", app, "--repo", str(tmp_path / "other"))
    assert (code, "not_a_repository" in said) == (2, True)
    code, said = place.fails("list", "--repo", str(tmp_path / "none"))
    assert (code, "repository_not_found" in said) == (3, True)
    code, said = place.fails("create", app, "--repo", "sftp:nobody@127.0.0.1:/nowhere")
    assert (code, "repository_unreachable" in said) == (7, True)
    code, said = place.fails("restore", "ffffffff", "--name", f"{PREFIX}x", "--repo", repository)
    assert (code, "backup_not_found" in said) == (3, True)
    code, said = place.fails("restore", app, "--name", app, "--repo", repository)
    assert (code, "instance_exists" in said) == (4, True)
    code, said = place.fails("create", f"{PREFIX}nobody", "--repo", repository)
    assert (code, "instance_not_found" in said) == (3, True)
    assert stay_behind(place) == []


@pytest.mark.docker
def test_a_full_repository_loses_nothing(place: Place, app: str, tmp_path: Path) -> None:
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    loop.make_file(image, 24 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted.mkdir()
    loop.mount(image, mounted, "ext4")
    try:
        code, said = place.fails("create", app, "--repo", str(mounted))
        assert (code, "no_space" in said) == (1, True), said
        assert stay_behind(place) == []
        assert place.daemon.names()[app]["state"] == "running"
    finally:
        loop.unmount(image, mounted)


@pytest.mark.docker
def test_old_backups_go_and_the_rest_stays(place: Place, app: str) -> None:
    for _ in range(2):
        last = place.backup(app)
    repository = str(place.repository)
    rule = ("--keep-last", "1", "--repo", repository)
    would = place.daemon.run("backup", "prune", app, *rule, "--dry-run").stdout.decode()
    assert "would go" in would
    assert len(place.backups(app)) > 1
    place.daemon.run("backup", "prune", app, *rule, "--yes")
    assert [row["id"] for row in place.backups(app)] == [last["backup"]]
    place.daemon.run("backup", "rm", last["backup"], "--repo", repository, "--yes")
    assert place.backups(app) == []
    assert place.verify()[0] == 0


def until_reading(command: subprocess.Popen[bytes]) -> None:
    """Wait until it is in the middle of its work, which takes seconds on a slow host and less on a quick one."""
    assert command.stderr is not None
    for line in command.stderr:
        if b": reading " in line:
            return
    raise AssertionError("it ended before it read anything")


@pytest.mark.lxc
def test_a_cancelled_backup_leaves_nothing(place: Place, container: str) -> None:
    place.daemon.exec(container, "sh", "-c", "head -c 60000000 /dev/urandom >/srv/noise")
    known = [row["id"] for row in place.backups(container)]
    argv = [TRIUNE, "backup", "create", container, "--repo", str(place.repository)]
    command = subprocess.Popen(argv, env=place.daemon.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until_reading(command)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    deadline = time.monotonic() + PATIENCE
    while place.daemon.json("ops", "list", "--running") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [row["id"] for row in place.backups(container)] == known
    assert stay_behind(place) == []


@pytest.mark.docker
def test_an_instance_that_goes_away_meanwhile(place: Place) -> None:
    name = f"{PREFIX}gone"
    place.daemon.launch(IMAGE, name, "docker", command=("sleep", "infinity"))
    place.daemon.exec(name, "sh", "-c", "head -c 90000000 /dev/urandom >/srv/noise")
    argv = [TRIUNE, "backup", "create", name, "--repo", str(place.repository)]
    command = subprocess.Popen(argv, env=place.daemon.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until_reading(command)
    subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)
    _, said = command.communicate(timeout=120)
    assert command.returncode in (1, 3), said
    assert place.backups(name) == []
    assert stay_behind(place) == []


@pytest.mark.lxc
def test_a_restore_that_is_killed_leaves_nothing(place: Place, container: str) -> None:
    place.backup(container)
    for step in ("restore", "create", "lxc-config"):
        place.daemon.crash(f"backup-restore:{step}")
        name = f"{PREFIX}crash"
        place.daemon.run("backup", "restore", container, "--name", name, "--repo", str(place.repository), check=False)
        place.daemon.died()
        place.daemon.start()
        assert name not in place.daemon.names()
        assert not list(Path("/var/lib/lxc").glob(".triune-restore-*"))


@pytest.mark.kvm
def test_a_virtual_machine_comes_back_and_boots(place: Place) -> None:
    """The second backup reads what was written since the first, and says so."""
    name = f"{PREFIX}vm"
    small = put_small(place.daemon.data / "images")
    place.daemon.launch(small, name, "kvm", "--memory", "256MiB", "--network", "none")
    place.daemon.exec(name, "sh", "-c", "head -c 5000000 /dev/urandom >/srv/one; sync; sha256sum /srv/one >/srv/sums")
    first = place.backup(name)
    assert first["consistency"] == "agent"
    idle = place.backup(name)
    assert idle["added"] < first["added"] / 10
    place.daemon.exec(name, "sh", "-c", "head -c 3000000 /dev/urandom >/srv/two; sha256sum /srv/two >>/srv/sums; sync")
    last = place.backup(name)
    assert 3_000_000 < last["added"] < first["added"] / 2
    assert stay_behind(place) == []
    place.daemon.exec(name, "rm", "/srv/one", "/srv/two")
    place.restore(last["backup"], f"{name}2", "--start")
    deadline = time.monotonic() + 120
    while True:
        done = place.daemon.run("exec", f"{name}2", "--", "sha256sum", "-c", "/srv/sums", check=False)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert (done.returncode, done.stdout.count(b"OK")) == (0, 2), done
    place.restore(first["backup"], f"{name}3")
    code, said = place.fails("cat", name, "/srv/sums", "--repo", str(place.repository))
    assert (code, "files_in_disk" in said) == (6, True)
    assert place.verify()[0] == 0
    place.daemon.run("rm", name, f"{name}2", f"{name}3", "--force", "--yes")
