"""Networks with DHCP, DNS and NAT for instances of every engine; see `networks.py`."""

from triune.host.firewall import Blocker
from triune.services.networks.networks import Networks
from triune.services.networks.settings import NetworkSettings

__all__ = ["Blocker", "NetworkSettings", "Networks"]
