"""Whether network limits (`net.in`, `net.out`) can be set: what `host.tc` asks of the kernel and of iproute2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triune.domain.finding import Finding
from triune.host import tc
from triune.host.probe.kernel import loadable, read_config, release
from triune.host.probe.view import View, missing, ok, unknown
from triune.host.setup.packages import family

AREA = "network"
NAME = "network.shaping"
# The modules that `host.tc` uses, and the options they are built by.
_MODULES: Mapping[str, str] = {
    "sch_tbf": "CONFIG_NET_SCH_TBF",
    "sch_ingress": "CONFIG_NET_SCH_INGRESS",
    "cls_u32": "CONFIG_NET_CLS_U32",
    "act_mirred": "CONFIG_NET_ACT_MIRRED",
    "ifb": "CONFIG_IFB",
}


def probe(view: View) -> Sequence[Finding]:
    """One finding: the kernel's options tell; where they are told nowhere, it is tried on a device of our own."""
    if view.tools.find("tc") is None:
        sentence = "tc is not installed: network limits cannot be set."
        return [missing(NAME, AREA, sentence, "apt-get install -y --no-install-recommends iproute2", tc=False)]
    config = read_config(view)
    return [_by_config(view, config) if config else _by_trial(view)]


def _by_config(view: View, config: Mapping[str, str]) -> Finding:
    unbuilt = [module for module, option in _MODULES.items() if config.get(option) not in ("y", "m")]
    if unbuilt:
        sentence = f"This kernel was built without {', '.join(unbuilt)}: network limits cannot be set."
        return missing(NAME, AREA, sentence, _stock_kernel(view), lacking=unbuilt)
    apart = [module for module, option in _MODULES.items() if config[option] == "m"]
    there = loadable(view)
    absent = [module for module in apart if module not in there and not view.files.exists(f"/sys/module/{module}")]
    if absent:
        sentence = f"The kernel's modules {', '.join(absent)} are not installed: network limits cannot be set."
        return missing(NAME, AREA, sentence, _modules_package(view), lacking=absent)
    return ok(NAME, AREA, "The kernel can shape traffic: network limits can be set.", lacking=[])


def _by_trial(view: View) -> Finding:
    if not view.live:
        return unknown(NAME, AREA, "Whether the kernel can shape traffic is told nowhere and was not tried.")
    if not view.root:
        sentence = "Only root can try whether the kernel shapes traffic."
        return unknown(NAME, AREA, sentence, "sudo triune doctor")
    reason = tc.why_not()
    if reason:
        return missing(NAME, AREA, f"Network limits cannot be set: {reason.rstrip('.')}.", _stock_kernel(view))
    return ok(NAME, AREA, "The kernel can shape traffic: network limits can be set.", lacking=[])


def _modules_package(view: View) -> str | None:
    """Ubuntu keeps rarer modules in a package of its own; Debian has one for all."""
    match family(view.files.text("/etc/os-release") or ""):
        case "ubuntu":
            return f"apt-get install -y linux-modules-extra-{release(view)}"
        case "debian":
            return f"apt-get install --reinstall -y linux-image-{release(view)}"
    return None


def _stock_kernel(view: View) -> str | None:
    """The distribution's own kernel has all of them."""
    names = {"debian": "linux-image-amd64", "ubuntu": "linux-generic"}
    name = names.get(family(view.files.text("/etc/os-release") or "") or "")
    return f"apt-get install -y {name} && reboot" if name else None
