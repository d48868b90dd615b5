"""How strongly each instance is isolated, checked from inside, and how to harden it."""

from triune.services.audit.service import AuditRequest, Audits

__all__ = ["AuditRequest", "Audits"]
