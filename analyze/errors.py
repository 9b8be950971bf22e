"""The way an analysis fails that is not the archive's fault."""


class AnalysisError(RuntimeError):
    """A metric asked for by name failed, or returned something its card does not announce."""
