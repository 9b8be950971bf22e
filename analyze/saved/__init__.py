"""Results on disk: written whole, trusted only as they were written."""
