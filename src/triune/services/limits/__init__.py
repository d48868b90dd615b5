"""Limits of what instances may use: checked, set live, remembered where no engine does."""

from triune.services.limits.policy import check
from triune.services.limits.service import InstanceLimits
from triune.services.limits.shaper import HostShaper, Shaper

__all__ = ["HostShaper", "InstanceLimits", "Shaper", "check"]
