"""The process itself: answers calls until its input ends."""

from tracer.apart import serve

serve()
