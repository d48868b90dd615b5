"""The inventory of all engines, and what can be done with an instance."""

from triune.services.instances.facets import require_facet
from triune.services.instances.inventory import Counted, EngineProblem, Inventory, Listing
from triune.services.instances.launch import LaunchRequest
from triune.services.instances.service import Instances
from triune.services.instances.warming import TemplateSettings, Warming, WarmRequest

__all__ = [
    "Counted",
    "EngineProblem",
    "Instances",
    "Inventory",
    "LaunchRequest",
    "Listing",
    "TemplateSettings",
    "WarmRequest",
    "Warming",
    "require_facet",
]
