"""Rescue on real volumes: samples, damages, what comes out."""
