"""The way an analysis fails that is not the archive's fault."""

from tracer.errors import TracerError


class AnalysisError(TracerError, RuntimeError):
    """A metric asked for by name failed, or returned something its card does not announce."""
