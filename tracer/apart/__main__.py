"""The process itself: answers calls until its input ends."""

import sys

from tracer.apart import serve

serve(sys.argv[1:])
