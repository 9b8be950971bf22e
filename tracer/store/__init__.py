"""The bytes of an archive: what they are kept in, how arrays are laid out in them, and what documents may say."""
