"""What a template's save file holds and a plan in, the XML to restore it with out.

After a wanted change: TRIUNE_UPDATE_GOLDEN=1 pytest tests/golden/kvm.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.unit.engines.kvm.plans import EMULATED, FILES, plan

from triune.engines.kvm.spec import Files, build
from triune.engines.kvm.templates_spec import clone_xml, template_xml

HERE = Path(__file__).parent
MAKING = Files(folder=Path("/var/lib/triune/instances/kvm-templates/0123.part"))


def compare(name: str, xml: str) -> None:
    root = ET.fromstring(xml)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode") + "\n"
    wanted = HERE / name
    if os.environ.get("TRIUNE_UPDATE_GOLDEN"):
        wanted.write_text(text)
    assert text == wanted.read_text()


def test_a_template_that_is_made_in_the_background() -> None:
    compare("template.xml", template_xml(plan(), MAKING, EMULATED, "triune_template_0123", aside=True))


def test_what_starts_from_it() -> None:
    saved = template_xml(plan(), MAKING, EMULATED, "triune_template_0123", aside=True)
    compare("template-clone.xml", clone_xml(saved, build(plan(cpus=0.5), FILES, EMULATED), FILES))
