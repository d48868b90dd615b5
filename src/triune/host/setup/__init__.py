"""Making a host ready: a plan of small steps, each of which can tell what it lacks, and fill that gap."""
