"""`triune rescue`: reading what VMware left. Each command is a module of its own, imported when it is used."""
