"""How many instances fit, and where: figures of what they cost, limits of a host, and the placement over a fleet."""
