"""Bytes of an archive: layout, grid, reader, encodings, stores."""
