"""Following runs: a page that shows them as they train, and trackers that are sent their numbers."""
