"""What every test gets: a missing engine that is required fails instead of skipping.

`TRIUNE_REQUIRE=kvm,lxc,docker` names the engines (their marks). A test with one of these marks may still skip where its
reason begins with `hardware:` (what no machine of ours has) or with `by design:` (what the engine lacks for good,
or its own live tests show).
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Speed is shown by `make bench`, never by a timed test: a busy machine is no failure.
settings.register_profile("triune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("triune")

# A run in the background or without a terminal ignores them, and so would what it starts: tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

LIVE = Path(__file__).parent / "live"
CONTRACT = Path(__file__).parent / "contract"
EXEMPT = ("hardware:", "by design:")


# Live modules that share names, bridges or folders; every other is a group of its own.
SHARED = {
    "test_crash": "default-daemon",
    "test_directions": "default-daemon",
    "test_bad_days": "bad",
    "test_bad_input": "bad",
    "test_docker_engine": "docker",
    "test_docker_images": "docker",
    "test_images_build": "images",
    "test_images_system": "images",
    "test_kvm_commands": "kvm",
    "test_kvm_lifecycle": "kvm",
    "test_kvm_limits": "kvm",
    "test_lxc_exec": "lxc",
    "test_lxc_lifecycle": "lxc",
    "test_net_docker": "net-private",
    "test_net_private": "net-private",
    "test_pool_lxc": "lxc-places",
    "test_snapshots_lxc": "lxc-places",
}


# Take minutes; the first to begin, or the last worker ends alone with them.
LONG = (
    "test_backup",
    "test_images_build",
    "test_import",
    "test_pool_lxc",
    "test_snapshots_kvm",
    "test_storage",
    "test_warm",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first (`--no-loadscope-reorder`)."""
    items.sort(key=lambda item: item.path.stem not in LONG)


class ByGroup(LoadScopeScheduling):
    """What must not run side by side goes to one worker: modules that share something, an engine's contract."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        if CONTRACT.name in path:
            engine = re.search(r"\[(\w+)", test)
            return f"contract-{engine[1] if engine else ''}"
        return SHARED.get(Path(path).stem, path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup | None:
    """`-n 3 --dist loadscope` goes by these groups."""
    return ByGroup(config, log) if config.getvalue("dist") == "loadscope" else None


def required_engines() -> frozenset[str]:
    """The engines that must be there, from the environment."""
    return frozenset(word for word in os.environ.get("TRIUNE_REQUIRE", "").replace(" ", "").split(",") if word)


def skip_reason(longrepr: object) -> str:
    """Why a test was skipped, from pytest's (path, line, reason)."""
    reason = longrepr[2] if isinstance(longrepr, tuple) and len(longrepr) == 3 else str(longrepr)
    return str(reason).removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test of a required engine into a failure."""
    report = yield
    marks = {mark.name for mark in item.iter_markers()} & required_engines()
    if report.skipped and marks and not hasattr(report, "wasxfail"):
        reason = skip_reason(report.longrepr)
        if not reason.startswith(EXEMPT):
            report.outcome = "failed"
            report.longrepr = f"skipped, though TRIUNE_REQUIRE asks for {', '.join(sorted(marks))}: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole live module into a failure when engines are required."""
    report = yield
    if report.outcome == "skipped" and required_engines() and LIVE in collector.path.parents:
        reason = skip_reason(report.longrepr)
        if not reason.startswith(EXEMPT):
            report.outcome = "failed"
            report.longrepr = f"skipped, though TRIUNE_REQUIRE is set: {reason}"
    return report
