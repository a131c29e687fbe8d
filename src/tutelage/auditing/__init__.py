"""The audit bench: model x threats x slices, with intervals, pictures and one page that holds it all."""

from tutelage.auditing.audit import audit
from tutelage.auditing.result import AuditResult, AuditRow, Curve, Example

__all__ = ["AuditResult", "AuditRow", "Curve", "Example", "audit"]
